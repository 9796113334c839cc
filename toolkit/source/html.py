"""WARC response records: an HTTP answer with HTML to a page with its images, as a browser would read it.

What decodes and parses is `document`, for a guarded child process (toolkit/guard.py): a page of 27 KB can ask an HTML
parser that keeps to the standard for 1.5 GB (`<p>`, then n of `<b a=i>` and n of `<p>x`, make n * n elements), and
200,000 nested elements cost it quadratic time. Such a page is damage of that page.

Only answers with status 200 and HTML are pages. selectolax (lexbor) parses; charset by byte-order mark, then
Content-Type, then <meta>, then a trial of UTF-8, GB18030 and Big5, else windows-1252.
"""

from __future__ import annotations

import io
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from typing import NamedTuple, cast

import msgspec
import webencodings
import zstandard
from fastwarc.stream_io import BrotliReader, ChunkedReader
from fastwarc.warc import HeaderMap
from isal import igzip_lib
from selectolax.lexbor import LexborHTMLParser, SelectolaxError

from toolkit.guard import Fault, Guard
from toolkit.source.page import Image, Note, Page, cld2, names

# Largest page after its transfer and content codings; Common Crawl cuts bodies at 1 MiB (5 MiB since 2025).
MAX_PAGE = 32 << 20
# What one page may take. 8 MB of news pages in one took 58 MB above their text and 0.12 s on a node of two cores, so a
# page of MAX_PAGE takes about 240 MB and half a second; four times and twenty times that are room for dense markup.
MEMORY_MB, TIMEOUT_S = 1024, 10.0
# Where <meta charset> counts (WHATWG, prescan).
_PRESCAN = 1024
# How much of an unlabelled page is tried; enough for any script to show.
_TRIAL = 64 << 10
_TYPES = ("text/html", "application/xhtml+xml")
_META = re.compile(rb"<meta[^>]{0,512}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:\-]+)", re.IGNORECASE)
_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:\-]+)", re.IGNORECASE)
_LOOKS_HTML = re.compile(rb"\s*<(?:!doctype\s+html|html|head|body|!--)", re.IGNORECASE)
_BOMS = ((BOM_UTF8, "utf-8"), (BOM_UTF16_LE, "utf-16-le"), (BOM_UTF16_BE, "utf-16-be"))
# Python's codecs where they hold less than the WHATWG encoding of the label.
_WIDER = {"gbk": "gb18030", "big5": "big5hkscs", "shift_jis": "cp932", "euc-kr": "cp949", "iso-8859-1": "cp1252"}
_GZIP_CODINGS = ("gzip", "x-gzip")
# What the decoders raise on damaged bytes.
_BROKEN = (cast(type[Exception], igzip_lib.IsalError), zstandard.ZstdError, OSError)


class PageError(ValueError):
    """The answer can not be read as a page; the text says why."""


class Answer(NamedTuple):
    """A response that may be a page, before anything in it is decoded: `block` is the record's content."""

    offset: int
    url: str
    names: frozenset[str]
    block: bytes


class _Parsed(msgspec.Struct, array_like=True):
    """What the child says of an answer: the href of its <base> and its images, or why it can not be read."""

    page: bool = False
    base: str | None = None
    images: list[Image] = []
    error: str = ""


_PARSED = msgspec.msgpack.Decoder(_Parsed)


def read(offset: int, headers: HeaderMap, block: bytes) -> Answer | Note | None:
    """Return what a WARC record holds: an answer to look at, a note on a page's language, or nothing of use."""
    kind = (headers.get("WARC-Type") or "").lower()
    url = (headers.get("WARC-Target-URI") or "").strip(" <>")
    if kind == "metadata":
        about = names(headers.get("WARC-Concurrent-To"), headers.get("WARC-Refers-To"), url)
        return _note(about, block)
    if kind != "response" or not url or not block.startswith(b"HTTP/") or not _html(_http(block)[0]):
        return None
    return Answer(offset, url, names(headers.get("WARC-Record-ID"), url), block)


def guard() -> Guard:
    """Return the child process that reads the blocks of answers."""
    return Guard("toolkit.source.html:document", {}, memory_mb=MEMORY_MB, timeout_s=TIMEOUT_S)


def document(block: bytes) -> bytes:
    """Read one answer in the child; what it returns is for `page`."""
    try:
        text = _document(block)
        parsed = _Parsed() if text is None else _Parsed(True, *parse(text))
    except PageError as error:
        parsed = _Parsed(error=str(error))
    return msgspec.msgpack.encode(parsed)


def page(answer: Answer, found: bytes | Fault) -> Page | None:
    """Return the page of an answer, None where it is none; raises PageError where it can not be read."""
    if isinstance(found, Fault):
        raise PageError(f"a page that can not be read: {found}")
    parsed = _PARSED.decode(found)
    if parsed.error:
        raise PageError(parsed.error)
    return Page(answer.offset, answer.url, answer.names, parsed.base, parsed.images) if parsed.page else None


def parse(html: str) -> tuple[str | None, list[Image]]:
    """Return the href of the first <base> that has one, and the images of the document in order."""
    try:
        tree = LexborHTMLParser(html)
    except SelectolaxError as error:  # lexbor refuses no text: it ran out of memory
        raise MemoryError from error
    base = next((href for node in tree.css("base[href]") if (href := node.attributes.get("href"))), None)
    return base, [_image(node.attributes) for node in tree.css("img")]


def _image(attributes: dict[str, str | None]) -> Image:
    return Image(attributes.get("src"), attributes.get("alt"))


def _note(about: frozenset[str], block: bytes) -> Note | None:
    for line in block.splitlines():
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"languages-cld2":
            return Note(about, cld2(value.decode("utf-8", "replace").strip()))
    return None


def _document(block: bytes) -> str | None:
    """Return the text of an HTML answer with status 200, or None for any other answer."""
    headers, start = _http(block)
    if not _html(headers):
        return None
    kind = headers.get("Content-Type") or ""
    body = _decoded(block[start:], headers)
    if not kind and not _LOOKS_HTML.match(body[:_PRESCAN]):
        return None
    return _decode(body, kind)


def _http(block: bytes) -> tuple[HeaderMap, int]:
    """Return the header of an HTTP answer and the place of its body."""
    headers = HeaderMap()
    return headers, headers.parse(io.BytesIO(block))


def _html(headers: HeaderMap) -> bool:
    """Return whether an answer has status 200 and says that it is HTML, or does not say what it is."""
    kind = headers.get("Content-Type") or ""
    return headers.status_code == 200 and (not kind or kind.partition(";")[0].strip().lower() in _TYPES)


def _decoded(body: bytes, headers: HeaderMap) -> bytes:
    """Return the body with its transfer and content codings taken off; a false label leaves it as it is."""
    if "chunked" in (headers.get("Transfer-Encoding") or "").lower():
        body = _dechunked(body)
    for coding in reversed((headers.get("Content-Encoding") or "").lower().split(",")):
        body = _inflated(body, coding.strip())
    if len(body) > MAX_PAGE:
        raise PageError(f"a page over the limit of {MAX_PAGE} bytes")
    return body


def _dechunked(body: bytes) -> bytes:
    """Return the joined chunks, up to where they end; a body that was stored joined (as many are) stays as it is."""
    reader, joined = ChunkedReader(io.BytesIO(body)), bytearray()
    try:
        while piece := reader.read(1 << 16):
            joined += piece
    except OSError:
        return bytes(joined) or body
    return bytes(joined)


def _inflated(body: bytes, coding: str) -> bytes:
    """Return at most MAX_PAGE + 1 inflated bytes; a body that is not so coded stays as it is."""
    try:
        if coding in _GZIP_CODINGS and body.startswith(b"\x1f\x8b"):
            return _inflate(body, igzip_lib.DECOMP_GZIP)
        if coding == "deflate":
            zlib = len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
            return _inflate(body, igzip_lib.DECOMP_ZLIB if zlib else igzip_lib.DECOMP_DEFLATE)
        if coding == "br":
            return bytes(BrotliReader(io.BytesIO(body)).read(MAX_PAGE + 1))
        if coding == "zstd":
            reader = zstandard.ZstdDecompressor(max_window_size=MAX_PAGE).stream_reader(io.BytesIO(body))
            return reader.read(MAX_PAGE + 1)
    except _BROKEN as error:
        if _LOOKS_HTML.match(body[:_PRESCAN]):
            return body
        raise PageError(f"a body that is no {coding}: {error}") from error
    return body


def _inflate(body: bytes, flag: int) -> bytes:
    return bytes(igzip_lib.IgzipDecompressor(flag=flag).decompress(body, MAX_PAGE + 1))


def _decode(body: bytes, kind: str) -> str:
    for mark, name in _BOMS:
        if body.startswith(mark):
            return body[len(mark) :].decode(name, "replace")
    return body.decode(charset(body, kind), "replace")


def charset(body: bytes, content_type: str) -> str:
    """Return the Python codec for a page without byte-order mark, from its Content-Type, its <meta>, or a trial."""
    header = _CHARSET.search(content_type)
    if header and (name := _codec(header.group(1))):
        return name
    meta = _META.search(body[:_PRESCAN])
    if meta and (name := _codec(meta.group(1).decode("ascii"))):
        return "utf-8" if name.startswith("utf-16") else name  # the page could be read as far as its <meta>
    return _tried(body[:_TRIAL])


def _codec(label: str) -> str | None:
    """Return Python's codec for a WHATWG label, or None for a label that names no encoding."""
    found = webencodings.lookup(label)
    return _WIDER.get(found.name, found.codec_info.name) if found else None


def _tried(body: bytes) -> str:
    for name in ("utf-8", "gb18030", "big5hkscs"):
        try:
            body.decode(name)
        except UnicodeDecodeError as error:
            if error.start < len(body) - 4:  # a character cut by the end of the trial is no fault
                continue
        return name
    return "cp1252"
