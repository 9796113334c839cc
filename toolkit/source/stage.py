"""Stage source: crawl files in, one row per pair out, and the steps that choose raw pairs.

Promise: the rows come in input order (file, page, tag); a damaged record costs itself and is named; a verdict is a
function of the columns and the section alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from toolkit.config.source import Source
from toolkit.data.pair import pair_id, schema
from toolkit.data.stage import Task
from toolkit.data.table import ROW_GROUP, build
from toolkit.data.verdict import Reject, verdict
from toolkit.source import html, language, table, warc, wat
from toolkit.source.hosts import blacklist, host, lines
from toolkit.source.page import Image, Note, Page, match, pairs

# Longest address: browsers and servers agree on about 2,000 characters, and sitemaps allow no more than 2,048.
MAX_URL = 2048
# With `rejects: counts`, one rejected row in so many stays, chosen by its id.
SAMPLE = 1000
# Hosts named in the mark with `rejects: counts`, and how many are counted before the rare ones are forgotten.
TOP_HOSTS, COUNTED_HOSTS = 100, 100_000
# Records held back until the child is asked for their pages, so that it is asked for many at once.
HELD, HELD_BYTES = 128, 8_000_000
# Terms in one regular expression; RE2 refuses programs that grow over its memory limit.
_TERMS_AT_ONCE = 500
_PLAIN_URL = r"^(?i:https?)://[A-Za-z0-9](?:[A-Za-z0-9.\-]*[A-Za-z0-9])?(?::[0-9]{1,4})?(?:[/?#][^\x00-\x20\x7f]*)?$"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_FORBIDDEN_HOST = re.compile(r"[\s<>\"^`{|}%]")

_Bools = npt.NDArray[np.bool_]


# Steps


def _url(rows: pa.Table, section: Source) -> _Bools:
    plain = _bools(pc.and_(pc.match_substring_regex(rows["url"], _PLAIN_URL), _short(rows["url"])))
    rejected = np.zeros(len(plain), np.bool_)
    for row in np.flatnonzero(~plain):
        rejected[row] = not fetchable(rows["url"][int(row)].as_py())
    return rejected


def _short(urls: Any) -> Any:
    return pc.less_equal(pc.utf8_length(urls), MAX_URL)


def fetchable(url: str) -> bool:
    """Return whether an address can be asked for: http or https, a sound host and port, no control characters."""
    if len(url) > MAX_URL or _CONTROL.search(url):
        return False
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    name = parts.hostname or ""
    return (
        parts.scheme in ("http", "https") and bool(name.strip(".")) and port != 0 and not _FORBIDDEN_HOST.search(name)
    )


def _language(rows: pa.Table, section: Source) -> _Bools:
    if section.language == "any":
        return np.zeros(rows.num_rows, np.bool_)
    return _bools(pc.not_equal(rows["language"], section.language))


def _safety(rows: pa.Table, section: Source) -> _Bools:
    found = np.zeros(rows.num_rows, np.bool_)
    for pattern in _patterns(section.safety) if section.safety else ():
        found |= _bools(pc.match_substring_regex(rows["text"], pattern, ignore_case=True))
    return found


@cache
def _patterns(path: str) -> tuple[str, ...]:
    terms = [re.escape(term) for term in lines(path, "the list of safety terms")]
    return tuple("|".join(terms[at : at + _TERMS_AT_ONCE]) for at in range(0, len(terms), _TERMS_AT_ONCE))


def _blacklist(rows: pa.Table, section: Source) -> _Bools:
    if section.blacklist is None:
        return np.zeros(rows.num_rows, np.bool_)
    listed = blacklist(section.blacklist)
    found = zip(rows["url"].to_pylist(), rows["page"].to_pylist(), strict=True)
    return np.fromiter((listed(host(url)) or listed(host(page)) for url, page in found), np.bool_, rows.num_rows)


def _length(rows: pa.Table, section: Source) -> _Bools:
    outside = pc.or_(pc.less(rows["chars"], section.min_chars), pc.greater(rows["chars"], section.max_chars))
    return _bools(outside)


def _bools(values: Any) -> _Bools:
    return np.asarray(values.to_numpy(zero_copy_only=False) if isinstance(values, pa.Array) else values.to_numpy())


STEPS: Mapping[str, Reject] = {
    "source.url": _url,
    "source.language": _language,
    "source.safety": _safety,
    "source.blacklist": _blacklist,
    "source.length": _length,
}


# Reading


class Reader:
    """Reads crawl files and tables into columns, and counts what it read."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._kind: str = task.config.input.kind
        self._counts: Counter[str] = Counter()
        self._columns = _empty()
        self._child = html.guard()  # starts with the first answer that it is asked for: never for WAT

    def tables(self) -> Iterator[pa.Table]:
        """Yield the rows of all files as tables without verdict (`dropped` is null), about 10,000 rows each."""
        with self._child:
            for index, path in self._task.files():
                for page in self._pages(path):
                    self._add(index, page)
                    if len(self._columns["id"]) >= ROW_GROUP:
                        yield self._flush()
        if self._columns["id"]:
            yield self._flush()
        for key in sorted(self._counts):
            self._task.tally(key, self._counts[key])

    def _pages(self, path: str) -> Iterator[Page]:
        """Yield the pages of one file.

        What is wrong inside the file is damage. What the system refuses (a mount that is gone, EIO) is not: it fails
        the attempt, because publishing what could be read would lose the rest for good behind a valid mark.
        """
        with Path(path).open("rb", buffering=1 << 20) as file:
            try:
                yield from self._table(path, file) if self._is_table(file) else match(self._events(path, file))
            except OSError as error:
                if error.errno is not None:
                    raise  # damaged gzip and parquet are OSErrors without a number
                self._damage(path, f"the file can not be read on: {error}")

    def _is_table(self, file: BinaryIO) -> bool:
        file.seek(0)
        return file.read(4) == table.PARQUET or (self._kind == "table" and not warc.is_crawl(file))

    def _table(self, path: str, file: BinaryIO) -> Iterator[Page]:
        for row in table.read(file, lambda number, what: self._damage(f"{path}:row {number}", what)):
            self._counts["records"] += 1
            yield Page(row.number, row.page, frozenset(), "", [Image(row.url, row.text)])

    def _events(self, path: str, file: BinaryIO) -> Iterator[Page | Note]:
        """Yield what the records of a crawl file say, in order; pages are read in the child, many at once."""
        held: list[Page | Note | html.Answer] = []
        size = 0
        for record in warc.records(file, lambda offset, what: self._damage(f"{path}:{offset}", what)):
            self._counts["records"] += 1
            try:
                event = _event(record)
            except wat.EnvelopeError as error:
                self._damage(f"{path}:{record.offset}", str(error))
                continue
            if event is None:
                continue
            held.append(event)
            size += len(record.body)
            if not isinstance(held[0], html.Answer) or len(held) == HELD or size > HELD_BYTES:
                yield from self._read(path, held)
                held, size = [], 0
        yield from self._read(path, held)

    def _read(self, path: str, held: Sequence[Page | Note | html.Answer]) -> Iterator[Page | Note]:
        """Yield events in their order, answers as the pages that the child makes of them."""
        found = self._child.map([event.block for event in held if isinstance(event, html.Answer)])
        for event in held:
            if isinstance(event, html.Answer):
                try:
                    page = html.page(event, next(found))
                except html.PageError as error:
                    self._damage(f"{path}:{event.offset}", str(error))
                    continue
                if page is not None:
                    yield page
            else:
                yield event

    def _damage(self, where: str, what: str) -> None:
        self._counts["records.damaged"] += 1
        self._task.damage(where, what)

    def _add(self, index: int, page: Page) -> None:
        found, skipped = pairs(page)
        self._counts["pages"] += 1
        for key, number in zip(("links.no_src", "links.data", "links.no_alt"), skipped, strict=True):
            if number:
                self._counts[key] += number
        if not found:
            return
        code, source = _named(page, found)
        for url, text in found:
            values = (
                pair_id(url, text),
                url,
                text,
                page.url,
                code,
                source,
                len(text.strip()),
                index,
                page.offset,
                None,
            )
            for column, value in zip(self._columns.values(), values, strict=True):
                column.append(value)

    def _flush(self) -> pa.Table:
        rows = build(schema("source"), self._columns)
        self._columns = _empty()
        self._task.advance(rows.num_rows)
        return rows


def _empty() -> dict[str, list[Any]]:
    return {name: [] for name in schema("source").names}


_TYPE = re.compile(rb"^warc-type:[ \t]*(response|metadata)[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_JSON = re.compile(rb"^content-type:[ \t]*application/json\b", re.IGNORECASE | re.MULTILINE)


def _event(record: warc.Record) -> Page | Note | html.Answer | None:
    """Return what a record of either kind says; only responses and metadata say anything."""
    if not _TYPE.search(record.head):
        return None
    if _JSON.search(record.head):
        return wat.event(record.offset, record.body)
    return html.read(record.offset, record.headers(), record.body)


def _named(page: Page, found: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """Return the page's language and who named it: the crawler, or our detector on the joined captions."""
    if page.language:
        return page.language, "cld2"
    code = language.detect("\n".join(text for _, text in found))
    return code, "detector" if code else "none"


# Verdicts


def decide(rows: pa.Table, section: Source) -> pa.Table:
    """Return the rows with `dropped` set."""
    place = rows.schema.get_field_index("dropped")
    return rows.set_column(place, rows.schema.field(place), verdict(STEPS, rows, section))


class Counts:
    """Turns rejected rows into counts, one in a thousand excepted; what stays is counted from its own row."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._tally: Counter[str] = Counter()
        self._hosts: Counter[str] = Counter()

    def keep(self, rows: pa.Table) -> pa.Table:
        """Return the rows that stay: those alive and the sample; count the others."""
        dropped = rows["dropped"].to_pylist()
        ids = rows["id"].to_pylist()
        stay = [step is None or int(id_[-8:], 16) % SAMPLE == 0 for id_, step in zip(ids, dropped, strict=True)]
        gone = rows.filter(pa.array([not one for one in stay], pa.bool_()))
        self._count(gone)
        return rows.filter(pa.array(stay, pa.bool_()))

    def _count(self, gone: pa.Table) -> None:
        for step, number in sorted(Counter(gone["dropped"].to_pylist()).items()):
            self._task.count(step, number)
        self._tally.update(f"language.{code or 'unknown'}" for code in gone["language"].to_pylist())
        self._hosts.update(f"host.{host(page)}" for page in gone["page"].to_pylist())
        if len(self._hosts) > COUNTED_HOSTS:
            self._hosts = Counter(dict(_top(self._hosts, COUNTED_HOSTS // 10)))

    def close(self) -> None:
        """Hand over the counts by language, and by host for the 100 pages' hosts with most rejected rows."""
        for key, number in sorted(self._tally.items()) + sorted(_top(self._hosts, TOP_HOSTS)):
            self._task.tally(key, number)


def _top(counts: Counter[str], number: int) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:number]


def run(task: Task) -> None:
    """Write the pairs of the unit's files, in input order, with the verdicts of the source steps."""
    task.write(_rows(task))


def _rows(task: Task) -> Iterator[pa.Table]:
    section: Source = task.config.source
    counts = Counts(task) if section.rejects == "counts" else None
    for rows in Reader(task).tables():
        decided = decide(rows, section)
        yield counts.keep(decided) if counts else decided
    if counts:
        counts.close()
