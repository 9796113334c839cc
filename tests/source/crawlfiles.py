"""Small crawl files made for these tests, and a task that keeps what a stage says in memory."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from toolkit.config.source import Source
from toolkit.data.pair import schema


def record(kind: str, body: bytes, *, length: int | None = None, **headers: str) -> bytes:
    """One WARC record; `length` lies about its size, header names are written with hyphens."""
    lines = [f"WARC-Type: {kind}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return b"WARC/1.0\r\n" + "\r\n".join(lines).encode() + b"\r\n\r\n" + body + b"\r\n\r\n"


def envelope(page: int, links: Sequence[dict[str, Any]], *, base: str | None = None, status: object = "200") -> bytes:
    """The JSON of a WAT record about a page's response."""
    head = {"Base": base} if base else {}
    response = {
        "Response-Message": {"Status": status},
        "HTML-Metadata": {"Head": head, "Links": list(links)},
    }
    return _envelope(page, {"HTTP-Response-Metadata": response}, "response")


def remark(page: int, language: str) -> bytes:
    """The JSON of a WAT record about a page's languages-cld2 record."""
    value = json.dumps({"reliable": True, "languages": [{"code": "xx", "code-iso-639-3": language}]})
    records = [{"Name": "fetchTimeMs", "Value": "1"}, {"Name": "languages-cld2", "Value": value}]
    return _envelope(page, {"WARC-Metadata-Metadata": {"Metadata-Records": records}}, "metadata")


def _envelope(page: int, payload: dict[str, Any], kind: str) -> bytes:
    header = {"WARC-Type": kind, "WARC-Target-URI": address(page), "WARC-Record-ID": f"<urn:{kind}:{page}>"}
    wat = {"Envelope": {"Payload-Metadata": payload, "WARC-Header-Metadata": header}}
    return json.dumps(wat, ensure_ascii=False).encode("utf-8", "surrogatepass")


def address(page: int) -> str:
    return f"http://www.example.test/{page}/index.html"


def wat(body: bytes, **options: Any) -> bytes:
    return record("metadata", body, Content_Type="application/json", **options)


def response(page: int, html: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """One WARC response record."""
    http = "\r\n".join([f"HTTP/1.1 {status}", *(headers or ("Content-Type: text/html; charset=utf-8",))])
    names = {"WARC_Target_URI": address(page), "WARC_Record_ID": f"<urn:response:{page}>"}
    return record("response", http.encode() + b"\r\n\r\n" + html, Content_Type="application/http", **names)


def members(parts: Iterable[bytes]) -> bytes:
    return b"".join(gzip.compress(part, mtime=0) for part in parts)


class MemoryTask:
    """A task of one unit on given files (or given source tables), which keeps what the stage hands over."""

    unit, parts = 0, 1

    def __init__(self, paths: Sequence[object] = (), kind: str = "wat", **section: Any) -> None:
        self.paths = [str(path) for path in paths]
        self.config = SimpleNamespace(input=SimpleNamespace(kind=kind), source=Source(**section))
        self.tables: list[pa.Table] = []
        self.sources: list[pa.Table] = []
        self.damages: list[tuple[str, str]] = []
        self.counts: Counter[str] = Counter()
        self.tallies: Counter[str] = Counter()

    def files(self) -> list[tuple[int, str]]:
        return list(enumerate(self.paths))

    def shards(self) -> range:
        return range(len(self.sources))

    def table(self, stage: str, unit: int = 0) -> pa.Table:
        assert stage == "source"
        return self.sources[unit]

    def write(self, tables: pa.Table | Iterable[pa.Table]) -> None:
        self.tables += [tables] if isinstance(tables, pa.Table) else list(tables)

    def damage(self, where: str, what: str) -> None:
        self.damages.append((where, what))

    def count(self, step: str, rows: int) -> None:
        self.counts[step] += rows

    def tally(self, key: str, rows: int) -> None:
        self.tallies[key] += rows

    def advance(self, rows: int) -> None:
        pass

    def written(self, stage: str = "source") -> pa.Table:
        return pa.concat_tables([schema(stage).empty_table(), *self.tables])
