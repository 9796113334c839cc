"""WAT records: JSON envelopes in which Common Crawl describes each record of a WARC.

Only the needed fields are decoded, and only of envelopes that hold an image link or a language. A field of an
unexpected type costs that field, never the record.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from toolkit.source.page import Image, Note, Page, cld2, names

IMAGE = "IMG@/src"
_IMAGE, _LANGUAGES, _ENVELOPE = IMAGE.encode(), b"languages-cld2", b'"Envelope"'


class EnvelopeError(ValueError):
    """The JSON is broken or is no WAT envelope; the text says which."""


class _Link(msgspec.Struct):
    path: str | None = None
    url: str | None = None
    alt: str | None = None


class _Head(msgspec.Struct):
    base: str | None = msgspec.field(default=None, name="Base")


class _Html(msgspec.Struct):
    head: _Head | None = msgspec.field(default=None, name="Head")
    links: list[_Link] | None = msgspec.field(default=None, name="Links")


class _Message(msgspec.Struct):
    status: str | None = msgspec.field(default=None, name="Status")


class _Response(msgspec.Struct):
    message: _Message | None = msgspec.field(default=None, name="Response-Message")
    html: _Html | None = msgspec.field(default=None, name="HTML-Metadata")


class _Remark(msgspec.Struct):
    name: str | None = msgspec.field(default=None, name="Name")
    value: str | None = msgspec.field(default=None, name="Value")


class _Remarks(msgspec.Struct):
    records: list[_Remark] | None = msgspec.field(default=None, name="Metadata-Records")


class _Payload(msgspec.Struct):
    response: _Response | None = msgspec.field(default=None, name="HTTP-Response-Metadata")
    remarks: _Remarks | None = msgspec.field(default=None, name="WARC-Metadata-Metadata")


class _Header(msgspec.Struct):
    url: str | None = msgspec.field(default=None, name="WARC-Target-URI")
    id: str | None = msgspec.field(default=None, name="WARC-Record-ID")
    concurrent: str | None = msgspec.field(default=None, name="WARC-Concurrent-To")
    refers: str | None = msgspec.field(default=None, name="WARC-Refers-To")


class _Envelope(msgspec.Struct):
    payload: _Payload | None = msgspec.field(default=None, name="Payload-Metadata")
    header: _Header | None = msgspec.field(default=None, name="WARC-Header-Metadata")


class _Wat(msgspec.Struct):
    envelope: _Envelope = msgspec.field(name="Envelope")


_DECODER = msgspec.json.Decoder(_Wat)


def event(offset: int, body: bytes) -> Page | Note | None:
    """Return what one envelope says: a page with images, a note on a page's language, or nothing of use.

    `offset` is the record's, in bytes. Raises EnvelopeError where the JSON can not be read at all.
    """
    if _ENVELOPE not in body or not body.rstrip().endswith(b"}"):
        raise EnvelopeError("the JSON is no WAT envelope")
    if _IMAGE not in body and _LANGUAGES not in body:
        return None
    envelope = _decode(body).envelope
    header, payload = envelope.header or _Header(), envelope.payload or _Payload()
    if payload.remarks is not None:
        return _note(header, payload.remarks)
    if payload.response is not None:
        return _page(offset, header, payload.response)
    return None


def _page(offset: int, header: _Header, response: _Response) -> Page | None:
    if response.message is None or response.message.status != "200" or response.html is None or not header.url:
        return None
    images = [Image(link.url, link.alt) for link in response.html.links or () if link.path == IMAGE]
    base = response.html.head.base if response.html.head else None
    return Page(offset, header.url, names(header.id, header.url), base, images)


def _note(header: _Header, remarks: _Remarks) -> Note | None:
    for remark in remarks.records or ():
        if remark.name == "languages-cld2" and remark.value:
            about = names(header.concurrent, header.refers, header.id, header.url)
            return Note(about, cld2(remark.value))
    return None


def _decode(body: bytes) -> _Wat:
    try:
        return _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _lenient(body)


def _lenient(body: bytes) -> _Wat:
    """Decode what msgspec refuses: lone surrogates, fields of a wrong type."""
    try:
        value = json.loads(body)
    except UnicodeDecodeError:
        raise EnvelopeError("the JSON is not valid UTF-8") from None
    except (ValueError, RecursionError):
        raise EnvelopeError("the JSON is broken") from None
    wat = _convert(value, _Wat)
    if not isinstance(wat, _Wat):
        raise EnvelopeError("the JSON is no WAT envelope")
    return wat


# The fields that hold structures, by structure and JSON name; all others are texts.
_NESTED: dict[type[msgspec.Struct], dict[str, tuple[type[msgspec.Struct], bool]]] = {
    _Wat: {"Envelope": (_Envelope, False)},
    _Envelope: {"Payload-Metadata": (_Payload, False), "WARC-Header-Metadata": (_Header, False)},
    _Payload: {
        "HTTP-Response-Metadata": (_Response, False),
        "WARC-Metadata-Metadata": (_Remarks, False),
    },
    _Response: {"Response-Message": (_Message, False), "HTML-Metadata": (_Html, False)},
    _Html: {"Head": (_Head, False), "Links": (_Link, True)},
    _Remarks: {"Metadata-Records": (_Remark, True)},
}


def _convert(value: object, kind: type[msgspec.Struct]) -> msgspec.Struct | None:
    """Return the structure with every readable field, or None where the value is no object at all."""
    if not isinstance(value, dict):
        return None
    fields: dict[str, Any] = {}
    for info in msgspec.structs.fields(kind):
        found = value.get(info.encode_name)
        nested = _NESTED.get(kind, {}).get(info.encode_name)
        if nested is None:
            fields[info.name] = _scalar(found)
        elif nested[1]:
            fields[info.name] = _converted(found, nested[0])
        else:
            fields[info.name] = _convert(found, nested[0])
    return None if kind is _Wat and fields["envelope"] is None else kind(**fields)


def _converted(found: object, kind: type[msgspec.Struct]) -> list[msgspec.Struct]:
    items = found if isinstance(found, list) else ()
    return [item for value in items if (item := _convert(value, kind)) is not None]


def _scalar(found: object) -> str | None:
    if isinstance(found, str):
        return found
    return str(found) if isinstance(found, int) and not isinstance(found, bool) else None
