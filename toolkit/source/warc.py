"""Records of crawl files: WARC and ARC, plain, gzip (a member a record, or one in all) and zstd (with dictionary).

What a file is, its first bytes tell. Damage costs the records it touches: reading goes on at the next gzip member,
zstd frame or `WARC/1.` line, each damage is reported with its offset, and no damaged record is handed out: a record
counts only when its checksum holds and its Content-Length leads to the next record.

Inflate is ours (ISA-L), member by member; headers are FastWARC's. FastWARC's own iterator goes through a good file
twice as fast (54k against 28k records/s), but inflates each member whole: a gzip bomb of 4.7 MB took 3.1 GB of
memory; and it ends without a word at an empty member.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Generator, Iterator
from typing import Any, BinaryIO, NamedTuple, cast

import zstandard
from fastwarc.warc import HeaderMap
from isal import igzip_lib

# Largest record that is read. Common Crawl cuts a page at 1 MiB (5 MiB since 2025), and its longest envelopes are a
# few times that; 64 MiB bounds the memory of a task with room to spare.
MAX_RECORD = 64 << 20
# Longest block of WARC header lines, twice what FastWARC takes.
MAX_HEADER = 64 << 10
# A member that passes MAX_RECORD and this ratio is a bomb. Deflate ends at 1032; our real files' highest is 10.
MAX_RATIO = 256
# Bytes read at once: a usual member is 2-5 KB, and what is read too much is copied once (measured best of 2-32 KiB).
_WINDOW = 4096
_BLOCK = 1 << 20
_STEP = 512
_HEADER_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"^content-length:[ \t]*([0-9]{1,18})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)

GZIP, ZSTD, _SKIPPABLE = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", re.compile(rb"[\x50-\x5f]\x2a\x4d\x18", re.DOTALL)
_DICTIONARY = b"\x5d\x2a\x4d\x18"
_WARC = b"WARC/"
# The start of a record in the middle of other bytes, and how much of it may hang over the end of a block.
_NEXT = re.compile(rb"WARC/[01]\.[0-9]+\r\n(?=[A-Za-z])")
_OVERHANG = 16
_BLANK = re.compile(rb"[\r\n]*+")
_ARC = re.compile(rb"(?:filedesc://|[a-z]+:[^ \n]+ [0-9a-fA-F.:]+ [0-9]{14} )")

# What the decoders raise on damaged bytes.
_BROKEN: tuple[type[Exception], ...] = (
    cast(type[Exception], igzip_lib.IsalError),
    zstandard.ZstdError,
    MemoryError,
)

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


def is_crawl(file: BinaryIO) -> bool:
    """Return whether the file's content, inflated where compressed, begins like a WARC or ARC; the file is rewound."""
    codec = _codec(_raw(file))
    start = _first(file, codec) if codec else _raw(file)
    file.seek(0)
    return _begins(start)


def records(file: BinaryIO, damage: Damage) -> Iterator[Record]:
    """Yield the undamaged records of a WARC or ARC in order; call damage(offset in bytes, what) for each fault."""
    start = _raw(file)
    if not start:
        damage(0, "the file is empty")
        return
    codec = _codec(start) or _buried(file, start)
    if _ARC.match(_first(file, codec) if codec else start):
        yield from _arc(file, codec, damage)
        return
    pieces = _members(file, codec, damage) if codec else _blocks(file)
    yield from _Cutter(damage, plain=codec is None).cut(pieces)


def _raw(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(512)


def _codec(start: bytes) -> _Gzip | _Zstd | None:
    if start.startswith(GZIP):
        return _Gzip()
    return _Zstd() if start.startswith(ZSTD) or _SKIPPABLE.match(start) else None


def _buried(file: BinaryIO, start: bytes) -> _Gzip | None:
    """Return the codec of a file whose first bytes are damaged but that holds gzip members further on."""
    if _begins(start.lstrip(b"\r\n")) or not start:
        return None
    codec = _Gzip()
    at = _search(file, 1, codec)
    file.seek(at)
    return codec if file.read(1) else None


def _first(file: BinaryIO, codec: _Gzip | _Zstd) -> bytes:
    """Return the first bytes of the content of a compressed file."""
    pieces = _members(file, codec, lambda *_: None)
    return next((piece.data[:512] for piece in pieces if piece.data), b"")


def _begins(content: bytes) -> bool:
    return content.startswith(_WARC) or _ARC.match(content) is not None


# Bytes to pieces


def _blocks(file: BinaryIO) -> Iterator[_Piece]:
    """Yield a plain file in blocks; all of it is one member."""
    offset = 0
    file.seek(0)
    while data := file.read(_BLOCK):
        yield _Piece(offset, data, offset == 0, False)
        offset += len(data)


def _members(file: BinaryIO, codec: _Gzip | _Zstd, damage: Damage) -> Iterator[_Piece]:
    """Yield the inflated pieces of each gzip member or zstd frame; what is neither is reported and passed over."""
    offset = 0
    while True:
        file.seek(offset)
        start = file.read(8)
        if not start:
            return
        if skip := codec.skip(file, offset, start):
            if offset + skip > file.seek(0, io.SEEK_END):
                damage(offset, f"the file ends inside a {codec.name}")
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


def _member(file: BinaryIO, offset: int, codec: _Gzip | _Zstd) -> Generator[_Piece, None, int]:
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
            except _BROKEN as error:
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
            if _begins(_peek(file, block_start + at, codec)):
                return block_start + at
            at = block.find(codec.magic, at + 1)
        file.seek(block_start + len(block))
        block_start += len(block) - keep
        block = block[-keep:]


def _peek(file: BinaryIO, offset: int, codec: _Gzip | _Zstd) -> bytes:
    """Return the first inflated bytes of what may be a member, b"" where it is none."""
    file.seek(offset)
    decoder, chunk, data = codec.decoder(), file.read(_BLOCK), b""
    try:
        while not data and not decoder.eof and (chunk or not decoder.needs_input):
            data, chunk = decoder.decompress(chunk, 512), b""
    except _BROKEN:
        return b""
    return data


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
            self._options["dict_data"] = _dictionary(file.read(min(size, MAX_RECORD)))
        return 8 + size


def _dictionary(data: bytes) -> zstandard.ZstdCompressionDict:
    """Return the dictionary, which may itself be packed; damage in it shows in every frame that needs it."""
    if data.startswith(ZSTD):
        try:
            data = zstandard.ZstdDecompressor(max_window_size=MAX_RECORD).stream_reader(data).read(MAX_RECORD)
        except zstandard.ZstdError:
            data = b""
    return zstandard.ZstdCompressionDict(data)


class _ZstdDecoder:
    """One zstd frame behind the interface of isal's decompressor, output bounded too."""

    def __init__(self, context: zstandard.ZstdDecompressor) -> None:
        self._frame = context.decompressobj()
        self._waiting = b""
        self.eof, self.needs_input, self.unused_data = False, True, b""

    def decompress(self, data: bytes, limit: int) -> bytes:
        """Inflate a step of the input: blocks of at least 4 bytes and at most 128 KiB bound what comes of it."""
        waiting = self._waiting + data
        made = self._frame.decompress(waiting[:_STEP]) if waiting else b""
        self.eof = self._frame.eof
        self._waiting = b"" if self.eof else waiting[_STEP:]
        if self.eof:
            self.unused_data = self._frame.unused_data + waiting[_STEP:]
        self.needs_input = not self._waiting
        return made


# Pieces to records


class _Cutter:
    """Cuts a stream of pieces into records, and finds the next record after damage."""

    def __init__(self, damage: Damage, *, plain: bool) -> None:
        self.damage, self.plain = damage, plain
        self._buffer = bytearray()
        self._marks: list[tuple[int, int]] = []  # (place in the buffer, offset in the file) where members begin
        self._lost = False  # the damage at hand is reported, and the next record is being looked for
        self._endless = 0  # from the place at hand to here no header ends
        self._rest = 0  # the place in the buffer from which on bytes are still needed

    def cut(self, pieces: Iterator[_Piece]) -> Iterator[Record]:
        """Yield the whole records of the stream."""
        for piece in pieces:
            if piece.first and piece.last and not self._buffer and (record := _single(piece)):
                self._lost = False
                yield record
                continue
            if piece.first:
                self._mark(piece.offset)
            self._buffer += piece.data
            yield from self._records(closed=piece.last)
            if piece.fault:
                self.damage(piece.offset, piece.fault)
                self._buffer, self._marks, self._lost, self._endless = bytearray(), [], True, 0
        yield from self._records(closed=True, ended=True)

    def _mark(self, offset: int) -> None:
        """Note where a member begins; of members without content that begin at one place, the last."""
        if self._marks and self._marks[-1][0] == len(self._buffer):
            self._marks.pop()
        self._marks.append((len(self._buffer), offset))

    def _records(self, *, closed: bool, ended: bool = False) -> Iterator[Record]:
        """Yield what is whole; closed: a member ends with the buffer; ended: the file does."""
        at = 0
        while (found := self._next(at, closed, ended)) is not None:
            at, record = found
            if record is not None:
                yield record
        self._forget(self._rest)

    def _next(self, at: int, closed: bool, ended: bool) -> tuple[int, Record | None] | None:
        """Return where to go on and the record before it, if that was one; None where more bytes are needed."""
        buffer = self._buffer
        at = _blank(buffer, at)
        self._rest = at
        if at == len(buffer) or (len(buffer) - at < len(_WARC) and not ended):
            return None
        if not buffer.startswith(_WARC, at):
            return self._skip(at, at, "no WARC record begins here", ended)
        head = self._head(at)
        if head is None:
            if len(buffer) - at < MAX_HEADER and not ended:
                return None
            return self._skip(at, at + 1, "a record header without an end", ended)
        size, fault = _size(buffer, at, head)
        return self._skip(at, head, fault, ended) if fault else self._close(at, head, head + size, closed, ended)

    def _head(self, at: int) -> int | None:
        """Return where the header that begins at a place ends; places only grow, so no byte is looked at twice."""
        stop = at + MAX_HEADER
        found = self._buffer.find(_HEADER_END, max(at, self._endless), stop)
        if found >= 0:
            return found + len(_HEADER_END)
        self._endless = max(self._endless, min(stop, len(self._buffer)) - len(_HEADER_END) + 1)
        return None

    def _close(self, at: int, head: int, stop: int, closed: bool, ended: bool) -> tuple[int, Record | None] | None:
        buffer = self._buffer
        if any(at < mark < stop and buffer.startswith(_WARC, mark) for mark, _ in self._marks):
            return self._skip(at, head, "Content-Length leads past the next record", ended)
        if len(buffer) < stop:
            return self._skip(at, head, "the file ends inside a record", ended) if ended else None
        after = _blank(buffer, stop)
        whole = after == len(buffer) and (closed or ended)
        if not whole and len(buffer) - after < len(_WARC) and not ended:
            return None
        if not whole and not buffer.startswith(_WARC, after) and not self._apart(head, stop, after):
            return self._skip(at, head, "Content-Length does not lead to the next record", ended)
        self._lost = False
        return after, Record(self._offset(at), bytes(buffer[at:head]), bytes(buffer[head:stop]))

    def _apart(self, head: int, stop: int, after: int) -> bool:
        """Return whether a record is whole though no record follows it: damage begins behind it, not in it."""
        if any(stop <= mark <= after for mark, _ in self._marks):
            return True
        return self._buffer.startswith(_HEADER_END, stop) and not _NEXT.search(self._buffer, head, stop)

    def _skip(self, at: int, search: int, what: str, ended: bool) -> tuple[int, Record | None] | None:
        """Report damage at a place, once, and go to the next record after `search`."""
        if not self._lost:
            self.damage(self._offset(at), what)
            self._lost = True
        found = _NEXT.search(self._buffer, search)
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
            self._endless = max(0, self._endless - at)
            del self._buffer[:at]


def _size(buffer: bytearray, at: int, head: int) -> tuple[int, str]:
    """Return the Content-Length of the header in buffer[at:head], and what is wrong with it or ""."""
    length = _LENGTH.search(buffer, at, head)
    if length is None:
        return 0, "a record without a valid Content-Length"
    size = int(length.group(1))
    return size, f"a record of {size} bytes, over the limit of {MAX_RECORD}" if size > MAX_RECORD else ""


def _blank(buffer: bytearray, at: int) -> int:
    """Return the place behind the line ends that begin here."""
    found = _BLANK.match(buffer, at)
    return found.end() if found else at


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


def _arc(file: BinaryIO, codec: _Gzip | _Zstd | None, damage: Damage) -> Iterator[Record]:
    """Yield an ARC's documents as response records; warcio reads them, member by member where compressed."""
    if codec:
        for offset, data in _whole(_members(file, codec, damage), damage):
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
            body = _all(record.raw_stream)
            at = offset + (found.get_record_offset() if plain else 0)  # reads on to the record's end
            if len(body) > MAX_RECORD or len(body) < (record.length or 0):
                damage(at, f"an ARC document of {record.length} bytes is cut, or over the limit of {MAX_RECORD}")
            elif record.rec_type == "response":
                yield Record(at, record.rec_headers.to_str().encode("utf-8", "replace") + b"\r\n\r\n", body)
    except Exception as error:  # warcio raises whatever its parsers raise
        damage(at, f"damaged ARC: {error}")


def _all(stream: Any) -> bytes:
    """Return what the stream still holds, up to one byte over MAX_RECORD; warcio's streams read in small pieces."""
    data = bytearray()
    while len(data) <= MAX_RECORD and (piece := stream.read(min(_BLOCK, MAX_RECORD + 1 - len(data)))):
        data += piece
    return bytes(data)
