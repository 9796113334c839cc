"""Tars in webdataset's layout: written with stable bytes (ustar headers, mtime 0, fixed owner and mode), and read.

webdataset's own TarWriter stamps the time of writing, so two runs would differ. Members of our own tars are found by
the offsets that `add` returns, those of others by `members`; nothing is ever extracted.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

from toolkit.data.pair import ID_BYTES

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
    """Return one member's bytes; raises EOFError where the file does not hold them all."""
    if offset < 0 or size < 0:
        raise EOFError(f"no tar holds {size} bytes at offset {offset}")
    source.seek(offset)
    data = source.read(size)
    if len(data) != size:
        raise EOFError(f"the tar ends inside a member: {len(data)} of {size} bytes at offset {offset}")
    return data


class DigestError(ValueError):
    """Bytes that are not those that were written."""


def checked(source: IO[bytes], offset: int, size: int, digest: str | None) -> bytes:
    """Return one member's bytes, whose BLAKE2b is `digest` (32 hex digits).

    Raises EOFError where the file does not hold them all, DigestError where they are others.
    """
    data = member(source, offset, size)
    found = hashlib.blake2b(data, digest_size=ID_BYTES).hexdigest()
    if found != digest:
        raise DigestError(f"its digest is {found}, expected {digest}")
    return data


def header(block: bytes) -> tarfile.TarInfo | None:
    """Return what a block says as the header of a member, or None where it is none."""
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None


def members(path: Path) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    """Yield the header and the bytes of each regular file in any uncompressed tar.

    A hostile tar may raise tarfile.TarError, EOFError, ValueError, OverflowError, MemoryError or RecursionError.
    """
    with tarfile.open(path, "r:") as tar:
        for info in tar:
            if info.isreg() and not info.issparse() and (file := tar.extractfile(info)):
                yield info, file


def key(member: str) -> tuple[str, str]:
    """Return a webdataset member's key, which ends at the first dot of its name, and its last suffix."""
    folder, slash, name = member.rpartition("/")
    return folder + slash + name.partition(".")[0], Path(name).suffix.lower()


class Joined(io.RawIOBase):
    """Several files read as one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [path.open("rb", buffering=0) for path in paths]
        self._starts = [0, *accumulate(path.stat().st_size for path in paths)]
        self._at = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position in the joined stream."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._starts[-1]}[whence]
        if base + offset < 0:
            raise ValueError(f"position {base + offset} is before the start")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """Return the position in the joined stream."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read from the file at this position, at most to its end."""
        if self._at >= self._starts[-1]:
            return 0
        index = bisect_right(self._starts, self._at) - 1
        file = self._files[index]
        file.seek(self._at - self._starts[index])
        got = file.readinto(memoryview(buffer)[: self._starts[index + 1] - self._at])
        self._at += got
        return got

    def close(self) -> None:
        """Close all files."""
        for file in self._files:
            file.close()
        super().close()
