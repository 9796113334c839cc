"""Pages as WARC records, and as the WAT envelopes that Common Crawl makes of them.

Promise: every digest, length and offset is right. Each record is its own gzip member. The members are deflated by the
zlib inside pyarrow's wheel, not by the system's, so that their bytes, and with them all offsets, are the same on every
machine.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import uuid
import zlib
from dataclasses import dataclass
from functools import cache
from typing import IO
from urllib.parse import urlsplit

import pyarrow as pa
from warcio.recordloader import ArcWarcRecord
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import BufferWARCWriter

from toolkit.demo.dice import Dice, stream
from toolkit.demo.pages import CODES, Document, Json, document
from toolkit.demo.plan import Page

CRAWL = "CC-MAIN-20250208000000-20250208030000"
DATE, HTTP_DATE = "2025-02-08T01:02:03Z", "Sat, 08 Feb 2025 01:02:03 GMT"
AGENT = "CCBot/2.0 (https://commoncrawl.org/faq/)"


@dataclass(frozen=True, slots=True)
class Record:
    """One record: its header lines in Common Crawl's order, its block, and what WAT says of the block."""

    headers: list[tuple[str, str]]
    block: bytes
    payload_metadata: Json

    def value(self, name: str) -> str:
        """Return a header's value."""
        return dict(self.headers)[name]


class Twin:
    """Writes a WARC file and the WAT file that describes it, record by record."""

    def __init__(self, warc: IO[bytes], wat: IO[bytes], seed: int, number: int) -> None:
        self._warc, self._wat = warc, wat
        self._name = f"{CRAWL}-{number:05d}.warc.gz"
        self._key = f"{seed}/{number}"
        self._offset = 0
        self._info = _identity(self._key, "warcinfo")
        self._wat.write(member(serialized(_wat_info(f"{CRAWL}-{number:05d}.warc.wat.gz", self._key))))
        self._add(_warcinfo(self._name, self._info))

    def add(self, page: Page) -> None:
        """Write a page: request, response, metadata."""
        for record in records(page, self._info):
            self._add(record)

    def _add(self, record: Record) -> None:
        raw = serialized(record)
        packed = member(raw)
        container = {
            "Filename": self._name,
            "Compressed": True,
            "Offset": str(self._offset),
            "Gzip-Metadata": {
                "Deflate-Length": str(len(packed)),
                "Header-Length": "10",
                "Footer-Length": "8",
                "Inflated-CRC": str(zlib.crc32(raw)),
                "Inflated-Length": str(len(raw)),
            },
        }
        self._warc.write(packed)
        self._wat.write(member(serialized(_description(record, container, len(raw)))))
        self._offset += len(packed)


def serialized(record: Record) -> bytes:
    """Return the record's bytes before compression; warcio writes them."""
    headers = StatusAndHeaders("", list(record.headers), protocol="WARC/1.0")
    kind, content = record.value("WARC-Type"), record.value("Content-Type")
    writer = BufferWARCWriter(gzip=False)
    writer.write_record(
        ArcWarcRecord("warc", kind, headers, io.BytesIO(record.block), None, content, len(record.block))
    )
    return bytes(writer.get_contents())


def member(raw: bytes) -> bytes:
    """Return the bytes as one gzip member without a time, its system byte always "Unix"."""
    packed: bytes = _deflater().compress(raw, asbytes=True)
    return packed[:9] + b"\x03" + packed[10:]


@cache
def _deflater() -> pa.Codec:
    return pa.Codec("gzip", compression_level=6)


def records(page: Page, info: str) -> list[Record]:
    """Return the page's request, response and metadata records; `info` is the id of the file's warcinfo record."""
    found = document(page)
    parts = urlsplit(page.url)
    dice = Dice(page.key, "http")
    address = f"192.0.2.{dice.between(1, 254)}"
    return [
        _request(page, info, address, parts.path, parts.netloc),
        _response(page, info, address, found),
        _metadata(page, info, dice.between(40, 900), len(found.markup.encode())),
    ]


def _request(page: Page, info: str, address: str, path: str, host: str) -> Record:
    fields = {
        "User-Agent": AGENT,
        "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        "Accept-Language": "en-US,en;q=0.5",
        "Accept-Encoding": "br,gzip",
        "Host": host,
        "Connection": "Keep-Alive",
    }
    head = _head(f"GET {path} HTTP/1.1", fields)
    described = {
        "Actual-Content-Type": "application/http; msgtype=request",
        "HTTP-Request-Metadata": {
            "Request-Message": {"Method": "GET", "Path": path, "Version": "HTTP/1.1"},
            "Headers-Length": str(len(head)),
            "Headers": fields,
            "Entity-Length": "0",
            "Entity-Digest": digest(b""),
            "Entity-Trailing-Slop-Length": "0",
        },
    }
    headers = [
        *_opening(page, "request", len(head)),
        ("Content-Type", "application/http; msgtype=request"),
        ("WARC-Warcinfo-ID", info),
        ("WARC-IP-Address", address),
        ("WARC-Target-URI", page.url),
        ("WARC-Payload-Digest", digest(b"")),
        ("WARC-Block-Digest", digest(head)),
    ]
    return Record(headers, head, described)


def _response(page: Page, info: str, address: str, found: Document) -> Record:
    body = found.markup.encode(page.charset)
    fields = {
        "Date": HTTP_DATE,
        "Server": "nginx",
        "Content-Type": f"text/html; charset={page.charset}",
        "X-Crawler-Content-Encoding": "gzip",
        "Content-Length": str(len(body)),
    }
    head = _head("HTTP/1.1 200 OK", fields)
    described = {
        "Actual-Content-Type": "application/http; msgtype=response",
        "HTTP-Response-Metadata": {
            "Response-Message": {"Status": "200", "Version": "HTTP/1.1", "Reason": "OK"},
            "Headers-Length": str(len(head)),
            "Headers": fields,
            "HTML-Metadata": _html_metadata(page, found),
            "Entity-Length": str(len(body)),
            "Entity-Digest": digest(body),
            "Entity-Trailing-Slop-Length": "0",
        },
    }
    headers = [
        *_opening(page, "response", len(head) + len(body)),
        ("Content-Type", "application/http; msgtype=response"),
        ("WARC-Warcinfo-ID", info),
        ("WARC-Concurrent-To", _identity(page.key, "request")),
        ("WARC-IP-Address", address),
        ("WARC-Target-URI", page.url),
        ("WARC-Payload-Digest", digest(body)),
        ("WARC-Block-Digest", digest(head + body)),
        ("WARC-Identified-Payload-Type", "text/html"),
    ]
    return Record(headers, head + body, described)


def _html_metadata(page: Page, found: Document) -> Json:
    head: Json = {} if page.base is None else {"Base": page.base}
    head |= {
        "Title": found.title,
        "Metas": found.metas,
        "Link": [link.envelope() for link in found.head],
        "Scripts": [link.envelope() for link in found.scripts],
    }
    return {"Head": head, "Links": [link.envelope() for link in found.links]}


def _metadata(page: Page, info: str, fetch_ms: int, text_bytes: int) -> Record:
    remarks = [("fetchTimeMs", str(fetch_ms)), ("charset-detected", page.charset.upper())]
    if page.annotated:
        remarks.append(("languages-cld2", _languages(page.language, text_bytes)))
    block = "".join(f"{name}: {value}\r\n" for name, value in remarks).encode() + b"\r\n"
    described = {
        "Actual-Content-Type": "application/metadata-fields",
        "WARC-Metadata-Metadata": {"Metadata-Records": [{"Name": name, "Value": value} for name, value in remarks]},
    }
    headers = [
        *_opening(page, "metadata", len(block)),
        ("Content-Type", "application/warc-fields"),
        ("WARC-Warcinfo-ID", info),
        ("WARC-Concurrent-To", _identity(page.key, "response")),
        ("WARC-Target-URI", page.url),
        ("WARC-Payload-Digest", digest(block)),
        ("WARC-Block-Digest", digest(block)),
    ]
    return Record(headers, block, described)


def _languages(language: str, text_bytes: int) -> str:
    code, name = CODES[language]
    first = {"code": code, "code-iso-639-3": language, "text-covered": 0.97, "score": 2047.0, "name": name}
    return _json({"reliable": True, "text-bytes": text_bytes, "languages": [first]}).decode()


def _opening(page: Page, kind: str, length: int) -> list[tuple[str, str]]:
    return [
        ("WARC-Type", kind),
        ("WARC-Date", DATE),
        ("WARC-Record-ID", _identity(page.key, kind)),
        ("Content-Length", str(length)),
    ]


def _warcinfo(name: str, info: str) -> Record:
    fields = {
        "isPartOf": "CC-MAIN-2025-05",
        "publisher": "DanQing toolkit demo",
        "description": "A small crawl made by code; see truth.jsonl for what is planted in it",
        "software": "danqing demo",
        "format": "WARC File Format 1.0",
    }
    block = _fields(fields)
    headers = [
        ("WARC-Type", "warcinfo"),
        ("WARC-Date", DATE),
        ("WARC-Record-ID", info),
        ("Content-Length", str(len(block))),
        ("Content-Type", "application/warc-fields"),
        ("WARC-Filename", name),
        ("WARC-Block-Digest", digest(block)),
    ]
    return Record(headers, block, {"Actual-Content-Type": "application/warc-fields", "WARC-Info-Metadata": fields})


def _wat_info(name: str, key: str) -> Record:
    block = _fields({"Software-Info": "danqing demo", "format": "WARC File Format 1.0"})
    headers = [
        ("WARC-Type", "warcinfo"),
        ("WARC-Date", DATE),
        ("WARC-Filename", name),
        ("WARC-Record-ID", _identity(key, "wat")),
        ("Content-Type", "application/warc-fields"),
        ("Content-Length", str(len(block))),
        ("WARC-Block-Digest", digest(block)),
    ]
    return Record(headers, block, {})


def _description(record: Record, container: Json, inflated: int) -> Record:
    """Return the WAT record that describes a record of the WARC file."""
    kind = record.value("WARC-Type")
    length = len(record.block)
    payload = record.payload_metadata | {
        "Actual-Content-Length": str(length),
        "Trailing-Slop-Length": "4",
        "Block-Digest": record.value("WARC-Block-Digest"),
    }
    hidden = () if kind == "response" else ("WARC-Payload-Digest", "WARC-Block-Digest")
    envelope = {
        "Payload-Metadata": payload,
        "Format": "WARC/1.0",
        "WARC-Header-Length": str(inflated - length - 4),
        "WARC-Header-Metadata": {name: value for name, value in record.headers if name not in hidden},
    }
    block = _json({"Container": container, "Envelope": envelope})
    described = record.value("WARC-Record-ID")
    target = record.value("WARC-Filename" if kind == "warcinfo" else "WARC-Target-URI")
    headers = [
        ("WARC-Type", "metadata"),
        ("WARC-Target-URI", target),
        ("WARC-Date", DATE),
        ("WARC-Record-ID", _identity(described, "wat")),
        ("WARC-Refers-To", described),
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(block))),
        ("WARC-Payload-Digest", digest(block)),
        ("WARC-Block-Digest", digest(block)),
    ]
    return Record(headers, block, {})


def digest(data: bytes) -> str:
    """Return the digest as WARC writes it: SHA-1 in base 32."""
    return "sha1:" + base64.b32encode(hashlib.sha1(data, usedforsecurity=False).digest()).decode()


def _identity(*key: object) -> str:
    return f"<urn:uuid:{uuid.UUID(bytes=stream(16, 'record', *key), version=4)}>"


def _head(first: str, fields: dict[str, str]) -> bytes:
    lines = [first, *(f"{name}: {value}" for name, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _fields(fields: dict[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode()


def _json(value: Json) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
