"""What a crawl file says about one page, however it says it: WAT envelopes and WARC responses both end here.

Promise: the same page gives the same pairs both ways, so everything that turns links into pairs is in this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urljoin

import msgspec

# Where urljoin's answer is plain to see it is not asked: it takes 9 us, most of the time of a page. An address of this
# form comes back unchanged whatever the base is, and a path of this form comes back behind the origin of the base.
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-]+(?::[0-9]+)?(?=[/?#]|$)")
_ROOTED = re.compile(r"(?:/[A-Za-z0-9_~%\-][A-Za-z0-9._~%\-]*)+(?:\?[A-Za-z0-9._~%/&=+,:\-]+)?")
_PLAIN = re.compile(r"https?://[A-Za-z0-9.\-]+(?::[0-9]+)?/[A-Za-z0-9._~%/\-]*(?:\?[A-Za-z0-9._~%/&=+,:\-]+)?")

# ISO 639-3; anything else in its place is no language, and would become a name in the run's tallies.
_CODE = re.compile(r"[a-z]{3}")


class Image(NamedTuple):
    """One IMG tag: its src and alt attributes after entity decoding; None where the attribute is missing."""

    src: str | None
    alt: str | None


class Note(NamedTuple):
    """A crawler's remark on a page: whom it is about, and the page's first language in ISO 639-3."""

    about: frozenset[str]
    language: str


@dataclass(slots=True)
class Page:
    """One page: offset of its record in bytes, its address, the names a note may call it by, base, and images."""

    offset: int
    url: str
    names: frozenset[str]
    base: str | None
    images: list[Image]
    language: str = field(default="")


class Skipped(NamedTuple):
    """Why IMG tags of a page gave no pair: tags without src, with a data: src, and without (or with a blank) alt."""

    no_src: int
    data: int
    no_alt: int


class Notes(msgspec.Struct):
    """The part of a languages-cld2 value that is used."""

    languages: list[dict[str, object]] = []


_NOTES = msgspec.json.Decoder(Notes)


def cld2(value: str) -> str:
    """Return the first language of a languages-cld2 value in ISO 639-3, or "" where there is none to read."""
    try:
        first = _NOTES.decode(value.encode("utf-8", "replace")).languages[0]
    except (msgspec.MsgspecError, IndexError, RecursionError):
        return ""
    code = first.get("code-iso-639-3")
    return code if isinstance(code, str) and _CODE.fullmatch(code) else ""


def names(*values: str | None) -> frozenset[str]:
    """Return record ids and addresses as a set, brackets and blanks removed, missing ones left out."""
    return frozenset(name for value in values if value and (name := value.strip(" <>")))


def pairs(page: Page) -> tuple[list[tuple[str, str]], Skipped]:
    """Return the page's pairs (url, text) in document order, and counts of the tags that are none.

    A tag without alt has no text, and a data: address is an inlined placeholder that nobody could fetch; neither is
    a pair. A src that urljoin can not take stays as it is, and the step source.url rejects it.
    """
    found: list[tuple[str, str]] = []
    no_src = data = no_alt = 0
    base = _join(page.url, page.base, None) if page.base else page.url
    start = _ORIGIN.match(base)
    origin = start.group() if start else None
    for src, alt in page.images:
        if not src or src.isspace():
            no_src += 1
        elif src.lstrip()[:5].lower() == "data:":
            data += 1
        elif not alt or alt.isspace():
            no_alt += 1
        else:
            found.append((unicode(_join(base, src, origin)), unicode(alt)))
    return found, Skipped(no_src, data, no_alt)


def _join(base: str, src: str, origin: str | None) -> str:
    """Return urljoin(base, src), or the src where there is none; `origin` is the base's scheme and host, if plain."""
    if _PLAIN.fullmatch(src):
        return src
    if origin and _ROOTED.fullmatch(src):
        return origin + src
    try:
        return urljoin(base, src)
    except ValueError:
        return src


def unicode(value: str) -> str:
    """Return the text as sound Unicode: a lone surrogate, which JSON can smuggle in, becomes U+FFFD as HTML has it."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return value


def match(events: Iterable[Page | Note]) -> Iterator[Page]:
    """Give each page its note. A crawl file holds a page's note right behind it, so one page is held back."""
    held: Page | None = None
    for event in events:
        if isinstance(event, Page):
            if held is not None:
                yield held
            held = event
        elif held is not None and not held.language and held.names & event.about:
            held.language = event.language
    if held is not None:
        yield held
