"""Tars in webdataset's layout with stable bytes: ustar headers, mtime 0, fixed owner and mode.

webdataset's own TarWriter stamps the time of writing, so two runs would differ. Members are found by the
offsets that `add` returns, and read by seeking; nothing is ever extracted.
"""

from __future__ import annotations

import tarfile
from typing import IO

BLOCK = 512


class TarWriter:
    """Append members to an open, empty file; `close` writes the archive's end and leaves the file open."""

    def __init__(self, sink: IO[bytes]) -> None:
        self._sink = sink
        self._offset = 0

    def add(self, name: str, data: bytes) -> int:
        """Append one member and return the offset at which its bytes begin."""
        info = tarfile.TarInfo(name)
        info.size = len(data)
        info.mode = 0o644
        info.mtime = 0
        header = info.tobuf(format=tarfile.USTAR_FORMAT)
        padding = b"\0" * (-len(data) % BLOCK)
        self._sink.write(header + data + padding)
        start = self._offset + len(header)
        self._offset = start + len(data) + len(padding)
        return start

    def close(self) -> None:
        """Write the two empty blocks, filled up to tar's record of 10,240 bytes."""
        end = self._offset + 2 * BLOCK
        self._sink.write(b"\0" * (end - self._offset + -end % tarfile.RECORDSIZE))


def member(source: IO[bytes], offset: int, size: int) -> bytes:
    """Return one member's bytes; raises EOFError where the file ends inside it."""
    source.seek(offset)
    data = source.read(size)
    if len(data) != size:
        raise EOFError(f"the tar ends inside a member: {len(data)} of {size} bytes at offset {offset}")
    return data
