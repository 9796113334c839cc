"""Records of crawl files: WARC and ARC, plain, gzip (a member a record, or one in all) and zstd (with dictionary).

What a file is, its first bytes tell. Damage costs the records it touches: reading goes on at the next gzip member,
zstd frame or `WARC/1.` line, each damage is reported with its offset, and no damaged record is handed out: a record
counts only when its checksum holds and its Content-Length leads to the next record.

Inflate is ours (ISA-L), member by member; headers are FastWARC's. FastWARC's own iterator reads a good file a
third faster, but inflates each member whole: a gzip bomb of 4.7 MB took 3.1 GB of memory, and it ends without a
word at an empty member.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import zstandard
from fastwarc.warc import HeaderMap
from isal import igzip_lib

# Largest record that is read. Common Crawl cuts a page at 1 MiB (5 MiB since 2025), and its longest envelopes are a
# few times that; 64 MiB bounds the memory of a task with room to spare.
MAX_RECORD = 64 << 20
# Longest block of WARC header lines; servers and FastWARC stop at 32 KiB.
MAX_HEADER = 64 << 10
# A member that passes MAX_RECORD and this ratio is a bomb. Deflate ends at 1032; real envelopes stay under 40.
MAX_RATIO = 256
# Bytes read at once: a usual member is 2-5 KB, and what is read too much is copied once (measured best of 2-32 KiB).
_WINDOW = 4096
_BLOCK = 1 << 20
_HEADER_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"^content-length:[ \t]*([0-9]{1,18})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)

GZIP, ZSTD, _SKIPPABLE = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", re.compile(rb"[\x50-\x5f]\x2a\x4d\x18", re.DOTALL)
_DICTIONARY = b"\x5d\x2a\x4d\x18"
_WARC = b"WARC/"
# The start of a record in the middle of other bytes, and how much of it may hang over the end of a block.
_NEXT = re.compile(rb"(?<=\n)WARC/[01]\.[0-9]+\r\n")
_OVERHANG = 16
_ARC = re.compile(rb"(?:filedesc://|[a-z]+:[^ \n]+ [0-9a-fA-F.:]+ [0-9]{14} )")

Damage = Callable[[int, str], None]


class Record(NamedTuple):
    """One record: offset in the file (of its member, where compressed), its header lines, and its content block."""

    offset: int
    head: bytes
    body: bytes

    def headers(self) -> HeaderMap:
        """Return the parsed header."""
        headers = HeaderMap()
        headers.parse(io.BytesIO(self.head))
        return headers


class _Piece(NamedTuple):
    """Some inflated bytes: whether they begin a member, whether they end it, and why the member broke off there."""

    offset: int
    data: bytes
    first: bool
    last: bool
    fault: str = ""


def opened(file: BinaryIO) -> bytes:
    """Return the first bytes (up to 512) of a file's content, inflated where it is compressed; the file is rewound."""
    file.seek(0)
    start = file.read(1 << 16)
    file.seek(0)
    if start.startswith(GZIP) or _is_zstd(start):
        return next((piece.data[:512] for piece in _members(file, lambda *_: None) if piece.data), b"")
    return start[:512]


def is_crawl(file: BinaryIO) -> bool:
    """Return whether the file begins like a WARC or ARC, or like a compressed file too damaged to say."""
    start = opened(file)
    compressed = file.read(4)
    file.seek(0)
    broken = not start and (compressed.startswith(GZIP) or _is_zstd(compressed))
    return broken or start.lstrip(b"\r\n").startswith(_WARC) or _ARC.match(start) is not None


def records(file: BinaryIO, damage: Damage) -> Iterator[Record]:
    """Yield the undamaged records of a WARC or ARC in order; call damage(offset in bytes, what) for each fault."""
    if file.seek(0, io.SEEK_END) == 0:
        damage(0, "the file is empty")
        return
    start = opened(file)
    if _ARC.match(start):
        yield from _arc(file, damage)
        return
    pieces = _members(file, damage) if start != _raw(file) else _blocks(file)
    yield from _Cutter(damage, plain=start == _raw(file)).cut(pieces)


def _raw(file: BinaryIO) -> bytes:
    file.seek(0)
    start = file.read(512)
    file.seek(0)
    return start


def _is_zstd(start: bytes) -> bool:
    return start.startswith(ZSTD) or _SKIPPABLE.match(start) is not None


# Bytes to pieces


def _blocks(file: BinaryIO) -> Iterator[_Piece]:
    """Yield a plain file in blocks; all of it is one member."""
    offset = 0
    file.seek(0)
    while data := file.read(_BLOCK):
        yield _Piece(offset, data, offset == 0, False)
        offset += len(data)


def _members(file: BinaryIO, damage: Damage) -> Iterator[_Piece]:
    """Yield the inflated pieces of each gzip member or zstd frame; what is neither is reported and passed over."""
    file.seek(0)
    start = file.read(4)
    codec: _Gzip | _Zstd = _Gzip() if start.startswith(GZIP) else _Zstd()
    offset = 0
    while True:
        file.seek(offset)
        start = file.read(8)
        if not start:
            return
        if skip := codec.skip(file, offset, start):
            offset += skip
        elif start.startswith(codec.magic):
            size = yield from _member(file, offset, codec)
            offset = offset + size if size else _search(file, offset + 1, codec)
        elif not start.strip(b"\0") and not _rest(file):
            return  # zeros at the end are padding of block devices and tapes
        else:
            damage(offset, f"no {codec.name} begins here")
            offset = _search(file, offset + 1, codec)


def _rest(file: BinaryIO) -> bool:
    """Return whether anything but zeros follows."""
    while block := file.read(_BLOCK):
        if block.strip(b"\0"):
            return True
    return False


def _member(file: BinaryIO, offset: int, codec: _Gzip | _Zstd) -> Iterator[_Piece]:  # type: ignore[misc]
    """Yield one member's pieces and return its size in the file, 0 where it is damaged."""
    file.seek(offset)
    decoder, first = codec.decoder(), True
    taken = made = 0
    window = _WINDOW
    while True:
        chunk = file.read(window)
        if not chunk:
            yield _Piece(offset, b"", first, False, f"the file ends inside a {codec.name}")
            return 0
        taken += len(chunk)
        window = min(2 * window, _BLOCK)
        while True:
            try:
                data = decoder.decompress(chunk, _BLOCK)
            except (igzip_lib.IsalError, zstandard.ZstdError, MemoryError) as error:
                yield _Piece(offset, b"", first, False, f"damaged {codec.name}: {error}")
                return 0
            chunk = b""
            made += len(data)
            if decoder.eof:
                yield _Piece(offset, data, first, True)
                return taken - len(decoder.unused_data)
            if made > MAX_RECORD and made > MAX_RATIO * taken:
                yield _Piece(offset, b"", first, False, f"the {codec.name} inflates over {MAX_RATIO} times")
                return 0
            if data:
                yield _Piece(offset, data, first, False)
                first = False
            if decoder.needs_input:
                break


def _search(file: BinaryIO, offset: int, codec: _Gzip | _Zstd) -> int:
    """Return the offset of the next member that inflates to the start of a record, or the file's end."""
    keep = len(codec.magic) - 1
    block_start, block = offset, b""
    file.seek(offset)
    while True:
        fresh = file.read(_BLOCK)
        if not fresh:
            return block_start + len(block)
        block += fresh
        at = block.find(codec.magic)
        while at >= 0:
            if _begins(file, block_start + at, codec):
                return block_start + at
            at = block.find(codec.magic, at + 1)
        file.seek(block_start + len(block))
        block_start += len(block) - keep
        block = block[-keep:]


def _begins(file: BinaryIO, offset: int, codec: _Gzip | _Zstd) -> bool:
    file.seek(offset)
    try:
        start = codec.decoder().decompress(file.read(_BLOCK), 512)
    except (igzip_lib.IsalError, zstandard.ZstdError, MemoryError):
        return False
    return start.startswith(_WARC) or _ARC.match(start) is not None


class _Gzip:
    """How gzip members are told and inflated."""

    name, magic = "gzip member", GZIP

    def decoder(self) -> Any:
        return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)

    def skip(self, file: BinaryIO, offset: int, start: bytes) -> int:
        return 0


class _Zstd:
    """How zstd frames are told and inflated; a dictionary in the first, skippable frame serves all others."""

    name, magic = "zstd frame", ZSTD

    def __init__(self) -> None:
        self._options: dict[str, Any] = {"max_window_size": MAX_RECORD}

    def decoder(self) -> _ZstdDecoder:
        return _ZstdDecoder(zstandard.ZstdDecompressor(**self._options))

    def skip(self, file: BinaryIO, offset: int, start: bytes) -> int:
        """Return the size of a skippable frame that begins here, else 0; its dictionary is taken, where it is one."""
        if len(start) < 8 or not _SKIPPABLE.match(start):
            return 0
        size = int.from_bytes(start[4:8], "little")
        if offset == 0 and start.startswith(_DICTIONARY):
            data = file.read(min(size, MAX_RECORD))
            if data.startswith(ZSTD):
                data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
            self._options["dict_data"] = zstandard.ZstdCompressionDict(data)
        return 8 + size


class _ZstdDecoder:
    """One zstd frame behind the interface of isal's decompressor, output bounded too."""

    def __init__(self, context: zstandard.ZstdDecompressor) -> None:
        self._context = context
        self._frame = context.decompressobj(write_size=_BLOCK)
        self._waiting = b""
        self.eof, self.needs_input, self.unused_data = False, True, b""

    def decompress(self, data: bytes, limit: int) -> bytes:
        """Inflate at most a step of input: zstd's largest block of 128 KiB bounds what comes of it."""
        waiting = self._waiting + data
        step = waiting[:_WINDOW]
        made = self._frame.decompress(step) if step else b""
        self.eof = self._frame.eof
        self._waiting = b"" if self.eof else waiting[_WINDOW:]
        if self.eof:
            self.unused_data = self._frame.unused_data + waiting[_WINDOW:]
        self.needs_input = not self._waiting
        return made


# Pieces to records


@dataclass(slots=True)
class _Cutter:
    """Cuts a stream of pieces into records, and finds the next record after damage."""

    damage: Damage
    plain: bool
    _buffer: bytearray
    _marks: list[tuple[int, int]]  # (place in the buffer, offset in the file) where members begin
    _lost: bool  # whether the damage at hand is reported and the next record is being looked for

    def __init__(self, damage: Damage, *, plain: bool) -> None:
        self.damage, self.plain = damage, plain
        self._reset()

    def _reset(self) -> None:
        self._buffer, self._marks, self._lost = bytearray(), [], False

    def cut(self, pieces: Iterator[_Piece]) -> Iterator[Record]:
        """Yield the whole records of the stream."""
        for piece in pieces:
            if piece.first and piece.last and not self._buffer and (record := _single(piece)):
                self._lost = False
                yield record
                continue
            if piece.first:
                self._marks.append((len(self._buffer), piece.offset))
            self._buffer += piece.data
            yield from self._records(closed=piece.last)
            if piece.fault:
                self.damage(piece.offset, piece.fault)
                self._reset()
                self._lost = True
        yield from self._records(closed=True, ended=True)

    def _records(self, *, closed: bool, ended: bool = False) -> Iterator[Record]:
        """Yield what is whole; closed: a member ends with the buffer; ended: the file does."""
        at = 0
        while (found := self._next(at, closed, ended)) is not None:
            at, record = found
            if record is not None:
                yield record
        self._forget(self._rest)

    _rest: int = 0

    def _next(self, at: int, closed: bool, ended: bool) -> tuple[int, Record | None] | None:
        """Return where to go on and the record before it, if that was one; None where more bytes are needed."""
        buffer = self._buffer
        while at < len(buffer) and buffer[at] in b"\r\n":
            at += 1
        self._rest = at
        if at == len(buffer) or (len(buffer) - at < len(_WARC) and not ended):
            return None
        if not buffer.startswith(_WARC, at):
            return self._skip(at, at, "no WARC record begins here", ended)
        head = buffer.find(_HEADER_END, at, at + MAX_HEADER)
        if head < 0:
            if len(buffer) - at < MAX_HEADER and not ended:
                return None
            return self._skip(at, at + 1, "the file ends inside a header" if ended else "header too long", ended)
        head += len(_HEADER_END)
        length = _LENGTH.search(buffer, at, head)
        if length is None:
            return self._skip(at, head, "a record without a valid Content-Length", ended)
        size = int(length.group(1))
        if size > MAX_RECORD:
            return self._skip(at, head, f"a record of {size} bytes, over the limit of {MAX_RECORD}", ended)
        return self._close(at, head, head + size, closed, ended)

    def _close(
        self, at: int, head: int, stop: int, closed: bool, ended: bool
    ) -> tuple[int, Record | None] | None:
        buffer = self._buffer
        if any(at < mark < stop and buffer.startswith(_WARC, mark) for mark, _ in self._marks):
            return self._skip(at, head, "Content-Length leads past the next record", ended)
        if len(buffer) < stop:
            return self._skip(at, head, "the file ends inside a record", ended) if ended else None
        after = stop
        while after < len(buffer) and buffer[after] in b"\r\n":
            after += 1
        whole = after == len(buffer) and (closed or ended)
        if not whole and len(buffer) - after < len(_WARC) and not ended:
            return None
        if not whole and not buffer.startswith(_WARC, after) and not self._begins_member(stop, after):
            return self._skip(at, head, "Content-Length does not lead to the next record", ended)
        self._lost = False
        return after, Record(self._offset(at), bytes(buffer[at:head]), bytes(buffer[head:stop]))

    def _begins_member(self, stop: int, after: int) -> bool:
        return any(stop <= mark <= after for mark, _ in self._marks)

    def _skip(self, at: int, search: int, what: str, ended: bool) -> tuple[int, Record | None] | None:
        """Report damage at a place, once, and go to the next record after `search`."""
        if not self._lost:
            self.damage(self._offset(at), what)
            self._lost = True
        found = _NEXT.search(self._buffer, max(search - 1, 0))
        starts = [mark for mark, _ in self._marks if mark >= search and self._buffer.startswith(_WARC, mark)]
        if found:
            starts.append(found.start())
        if starts:
            return min(starts), None
        self._rest = len(self._buffer) if ended else max(search, len(self._buffer) - _OVERHANG)
        return None

    def _offset(self, at: int) -> int:
        mark, offset = max((m for m in self._marks if m[0] <= at), default=(0, 0))
        return offset + (at - mark if self.plain else 0)

    def _forget(self, at: int) -> None:
        """Drop the bytes before a place; the member that holds the place stays known."""
        if at:
            mark, offset = max((m for m in self._marks if m[0] <= at), default=(0, 0))
            start = (0, offset + (at - mark if self.plain else 0))
            self._marks = [start] + [(m - at, o) for m, o in self._marks if m > at]
            del self._buffer[:at]


def _single(piece: _Piece) -> Record | None:
    """Return the record of a member that holds exactly one: the usual case, and the fast one."""
    data = piece.data
    head = data.find(_HEADER_END, 0, MAX_HEADER) + len(_HEADER_END)
    if head < len(_HEADER_END) or not data.startswith(_WARC):
        return None
    length = _LENGTH.search(data, 0, head)
    if length is None or len(data) != head + int(length.group(1)) + 4 or data[-4:] != _HEADER_END:
        return None
    return Record(piece.offset, data[:head], data[head:-4])


# ARC


def _arc(file: BinaryIO, damage: Damage) -> Iterator[Record]:
    """Yield an ARC's documents as response records; warcio reads them, member by member where compressed."""
    if _raw(file).startswith(GZIP):
        for offset, data in _whole(_members(file, damage), damage):
            yield from _arc_records(io.BytesIO(data), offset, damage, plain=False)
    else:
        file.seek(0)
        yield from _arc_records(file, 0, damage, plain=True)


def _whole(pieces: Iterator[_Piece], damage: Damage) -> Iterator[tuple[int, bytes]]:
    """Yield each undamaged member of at most MAX_RECORD bytes: (offset, inflated bytes)."""
    data = bytearray()
    for piece in pieces:
        if piece.first:
            data.clear()
        if len(data) <= MAX_RECORD:
            data += piece.data
        if piece.fault:
            damage(piece.offset, piece.fault)
        elif piece.last and len(data) > MAX_RECORD:
            damage(piece.offset, f"a member over the limit of {MAX_RECORD} bytes")
        elif piece.last:
            yield piece.offset, bytes(data)


def _arc_records(file: BinaryIO, offset: int, damage: Damage, *, plain: bool) -> Iterator[Record]:
    from warcio.archiveiterator import ArchiveIterator

    found = ArchiveIterator(file, no_record_parse=True, arc2warc=True)
    at = offset
    try:
        for record in found:
            at = offset + (found.get_record_offset() if plain else 0)
            body = record.raw_stream.read(MAX_RECORD + 1)
            if len(body) > MAX_RECORD or len(body) < (record.length or 0):
                damage(at, f"an ARC document of {record.length} bytes is cut, or over the limit of {MAX_RECORD}")
            elif record.rec_type == "response":
                yield Record(at, record.rec_headers.to_str().encode("utf-8", "replace") + b"\r\n\r\n", body)
    except Exception as error:  # noqa: BLE001 - warcio raises whatever its parsers raise
        damage(at, f"damaged ARC: {error}")
