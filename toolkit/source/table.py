"""Table input: rows of url and text, and of page where there is one, as parquet, csv, tsv or JSON lines.

What a table is, its content tells: parquet by its magic bytes, JSON lines by a first `{`, tsv by a tab in the header
line, else csv; csv, tsv and JSON lines may be gzip or zstd. A bad row costs a row.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple, cast

import msgspec
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import zstandard
from isal import igzip

PARQUET = b"PAR1"
# Rows read at once, and the longest line of text that is taken for a row.
BATCH = 10_000
MAX_LINE = 1 << 20

Damage = Callable[[int, str], None]


class Row(NamedTuple):
    """One row: its number in the file from 0, the image's address, its text, and the page's address or ""."""

    number: int
    url: str
    text: str
    page: str


def read(file: BinaryIO, damage: Damage) -> Iterator[Row]:
    """Yield the readable rows of a table in order; call damage(row number, what) for each fault."""
    start = _start(file)
    try:
        if start.startswith(PARQUET):
            yield from _parquet(file, damage)
            return
        stream = _inflated(file, start)
        head = stream.peek(1)
        if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
            yield from _jsonl(stream, damage)
        elif head:
            yield from _csv(stream, damage)
        else:
            damage(0, "the table is empty")
    except (pa.ArrowException, OSError, EOFError, zstandard.ZstdError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system refuses; damaged gzip and parquet are OSErrors without a number
        damage(0, f"the table can not be read on: {error}")


def _start(file: BinaryIO) -> bytes:
    file.seek(0)
    start = file.read(4)
    file.seek(0)
    return start


def _inflated(file: BinaryIO, start: bytes) -> io.BufferedReader:
    if start.startswith(b"\x1f\x8b"):
        return io.BufferedReader(cast(Any, igzip).IGzipFile(fileobj=file), 1 << 16)
    if start == b"\x28\xb5\x2f\xfd":
        reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        return io.BufferedReader(cast(Any, reader), 1 << 16)
    return io.BufferedReader(cast(Any, file), 1 << 16)


def _parquet(file: BinaryIO, damage: Damage) -> Iterator[Row]:
    table = pq.ParquetFile(file)
    names = set(table.schema_arrow.names)
    if not _has_columns(names, damage):
        return
    columns = [name for name in ("url", "text", "page") if name in names]
    number = 0
    for batch in table.iter_batches(BATCH, columns=columns, use_threads=False):
        yield from _batch(batch, number, damage)
        number += batch.num_rows


class _Decoded(io.RawIOBase):
    """A stream of which bytes that are no UTF-8 are U+FFFD: pyarrow can not tell us of a bad row that holds them."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream, self._rest = stream, b""
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = b"more"
        while data and not self._rest:
            data = self._stream.read1(len(buffer))
            self._rest = self._decode(data, final=not data).encode()
        some, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(some)] = some
        return len(some)


def _csv(stream: io.BufferedReader, damage: Damage) -> Iterator[Row]:
    stream = io.BufferedReader(_Decoded(stream), 1 << 16)
    header = stream.peek(1).partition(b"\n")[0]
    delimiter = "\t" if b"\t" in header else ","
    bad: list[str] = []

    def skip(row: pa_csv.InvalidRow) -> str:
        bad.append(f"{row.actual_columns} columns where {row.expected_columns} are expected")
        return "skip"

    parse = pa_csv.ParseOptions(
        delimiter=delimiter,
        newlines_in_values=delimiter == ",",
        invalid_row_handler=skip,
        quote_char='"' if delimiter == "," else False,
    )
    text = {name: pa.string() for name in ("url", "text", "page")}
    convert = pa_csv.ConvertOptions(column_types=text, strings_can_be_null=False, check_utf8=True)
    reader = pa_csv.open_csv(stream, pa_csv.ReadOptions(use_threads=False, block_size=4 * MAX_LINE), parse, convert)
    if not _has_columns(set(reader.schema.names), damage):
        return
    number = 0
    for batch in reader:
        yield from _batch(batch, number, damage)
        number += batch.num_rows
        while bad:
            damage(number, bad.pop(0))


def _batch(batch: pa.RecordBatch, number: int, damage: Damage) -> Iterator[Row]:
    columns = [batch.column("url").to_pylist(), batch.column("text").to_pylist()]
    pages = batch.column("page").to_pylist() if "page" in batch.schema.names else [""] * batch.num_rows
    for place, (url, text, page) in enumerate(zip(*columns, pages, strict=True)):
        if isinstance(url, str) and isinstance(text, str):
            yield Row(number + place, url, text, page if isinstance(page, str) else "")
        else:
            damage(number + place, "a row without url or text")


def _has_columns(names: set[str], damage: Damage) -> bool:
    missing = {"url", "text"} - names
    if missing:
        damage(0, f"no column {' and '.join(sorted(missing))} among {sorted(names)[:20]}")
    return not missing


def _jsonl(stream: io.BufferedReader, damage: Damage) -> Iterator[Row]:
    decode = msgspec.json.Decoder(_Line).decode
    number = 0
    while line := stream.readline(MAX_LINE):
        try:
            row = decode(line.removeprefix(b"\xef\xbb\xbf")) if line.strip() else None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            damage(number, f"a line that is no row: {error}")
            row = None
        if row is not None:
            yield Row(number, row.url, row.text, row.page)
        number += 1


class _Line(msgspec.Struct):
    url: str
    text: str
    page: str = ""
