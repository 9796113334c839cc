"""Table input: rows of url and text, and of page where there is one, as parquet, csv, tsv or JSON lines.

What a table is, its content tells: parquet by its magic bytes, JSON lines by a first `{`, tsv by a tab in the header
line, else csv; csv, tsv and JSON lines may be gzip or zstd. A bad row costs a row: after a quote in csv that no other
closes, reading goes on with the next line.
"""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import Any, BinaryIO, NamedTuple, cast

import msgspec
import pyarrow as pa
import zstandard
from isal import igzip

from toolkit.data.table import opened

PARQUET = b"PAR1"
# What the text is called: here, by users, by cc2dataset, by img2dataset; the first that a table has is taken.
TEXTS = ("text", "alt_text", "alt", "caption")
# Rows read at once, and the longest line of text that is taken for a row.
BATCH = 10_000
MAX_LINE = 1 << 20
# Lines that a row in quotes may go over; more are read again and again in a file that is made of open quotes.
MAX_LINES = 100

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
    table = opened(file)
    names = table.schema_arrow.names
    text = _text(names, damage)
    if text is None:
        return
    columns = [name for name in ("url", text, "page") if name in names]
    number = 0
    for batch in table.iter_batches(BATCH, columns=columns, use_threads=False):
        yield from _batch(batch, text, number, damage)
        number += batch.num_rows


def _batch(batch: pa.RecordBatch, text: str, number: int, damage: Damage) -> Iterator[Row]:
    columns = [batch.column("url").to_pylist(), batch.column(text).to_pylist()]
    pages = batch.column("page").to_pylist() if "page" in batch.schema.names else [""] * batch.num_rows
    for place, (url, caption, page) in enumerate(zip(*columns, pages, strict=True)):
        if isinstance(url, str) and isinstance(caption, str):
            yield Row(number + place, url, caption, page if isinstance(page, str) else "")
        else:
            damage(number + place, "a row without url or text")


def _text(names: Collection[str], damage: Damage) -> str | None:
    """Return the name of the text's column, None where that or url is missing, which is told."""
    text = next((name for name in TEXTS if name in names), None)
    if text is None or "url" not in names:
        damage(0, _missing(names))
        return None
    return text


def _missing(names: Collection[str]) -> str:
    missing = [] if "url" in names else ["url"]
    missing += [] if set(TEXTS) & set(names) else [f"{TEXTS[0]} (or {', '.join(TEXTS[1:])})"]
    return f"no column {' and '.join(missing)} among {sorted(names)[:20]}"


def _csv(stream: io.BufferedReader, damage: Damage) -> Iterator[Row]:
    # Bytes that are no UTF-8 are U+FFFD. Line ends stay as they are: they may stand inside quotes.
    lines = _Lines(io.TextIOWrapper(stream, "utf-8-sig", "replace", newline=""))
    header = lines.read()
    delimiter = "\t" if "\t" in header else ","
    lines.back([header])
    names = next(_records(lines, delimiter, lambda _, what: damage(0, what)), (0, []))[1]
    text = _text(names, damage)
    if text is None:
        return
    url_at, text_at, page_at = names.index("url"), names.index(text), names.index("page") if "page" in names else -1
    for number, values in _records(lines, delimiter, damage):
        if len(values) == len(names):
            yield Row(number, values[url_at], values[text_at], values[page_at] if page_at >= 0 else "")
        else:
            damage(number, f"{len(values)} columns where {len(names)} are expected")


class _Lines:
    """Lines of a text, of which some can be put back; "" at the end."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._waiting: deque[str] = deque()

    def read(self) -> str:
        """Return the next line with its end; of one over MAX_LINE characters that many and one more, without."""
        if self._waiting:
            return self._waiting.popleft()
        line = self._text.readline(MAX_LINE + 1)
        rest = line if len(line) > MAX_LINE else ""
        while rest and rest[-1] not in "\r\n":
            rest = self._text.readline(MAX_LINE)
        return line

    def back(self, lines: list[str]) -> None:
        """Put lines back in front."""
        self._waiting.extendleft(reversed(lines))


def _records(lines: _Lines, delimiter: str, damage: Damage) -> Iterator[tuple[int, list[str]]]:
    """Yield the values of each row with its number; blank lines are no rows, and a bad row costs its first line."""
    number = 0
    while line := lines.read():
        if not line.strip("\r\n"):
            continue
        if len(line) > MAX_LINE:
            damage(number, _too_long())
        elif delimiter == "\t" or '"' not in line:
            yield number, line.rstrip("\r\n").split(delimiter)
        else:
            try:
                yield number, _quoted(line, lines)
            except csv.Error as error:
                damage(number, f"a row with a quote out of place: {error}")
        number += 1


def _quoted(line: str, lines: _Lines) -> list[str]:
    """Return the values of the row that begins with a line; raises csv.Error and puts the lines after it back."""
    taken: list[str] = []

    def feed() -> Iterator[str]:
        yield line
        size = len(line)
        while (more := lines.read()) and size + len(more) <= MAX_LINE and len(taken) < MAX_LINES:
            taken.append(more)
            size += len(more)
            yield more
        lines.back([more] if more else [])

    try:
        return next(csv.reader(feed(), strict=True))
    except csv.Error:
        lines.back(taken)
        raise


# Its default, 128 KiB, is less than a line may hold.
csv.field_size_limit(MAX_LINE)


def _too_long() -> str:
    return f"a line over the limit of {MAX_LINE} characters"


def _jsonl(stream: io.BufferedReader, damage: Damage) -> Iterator[Row]:
    decode = msgspec.json.Decoder(_Line).decode
    number = 0
    while line := stream.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE:
            _read_on(stream, line)
            damage(number, _too_long())
        elif line.strip():
            line = line.removeprefix(b"\xef\xbb\xbf")
            try:
                if row := decode(line).row(number):
                    yield row
                else:
                    damage(number, _missing(_strings(line)))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                damage(number, f"a line that is no row: {error}")
        number += 1


def _read_on(stream: io.BufferedReader, line: bytes) -> None:
    """Read the rest of a line that is too long."""
    while line and not line.endswith(b"\n"):
        line = stream.readline(MAX_LINE)


def _strings(line: bytes) -> list[str]:
    """Return the names of the texts in a line."""
    return [name for name, value in msgspec.json.decode(line).items() if isinstance(value, str)]


class _Line(msgspec.Struct):
    """A line; a field of an unexpected type costs the field."""

    url: Any = None
    text: Any = None
    alt_text: Any = None
    alt: Any = None
    caption: Any = None
    page: Any = None

    def row(self, number: int) -> Row | None:
        text = next((value for name in TEXTS if isinstance(value := getattr(self, name), str)), None)
        if not isinstance(self.url, str) or text is None:
            return None
        return Row(number, self.url, text, self.page if isinstance(self.page, str) else "")
