"""Pages of the demo's crawl: their links in order, and the HTML that holds them.

Promise: a page's links and its HTML are made from one model, so that WARC and WAT (records.py) hold the same images.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

from toolkit.demo import captions
from toolkit.demo.dice import Dice
from toolkit.demo.plan import Page

PLACEHOLDER = "data:image/gif;base64,R0lGODlhAQABAAAAACw="  # what pages put in place of images not yet loaded

# HTML's language tag, and CLD2's name, of a page's language.
CODES = {"zho": ("zh", "Chinese"), "eng": ("en", "ENGLISH"), "jpn": ("ja", "Japanese")}
_LABELS = {
    "zho": ("首页", "摄影图库", "联系我们", "水彩图片大全"),
    "eng": ("Home", "Picture gallery", "Contact us", "Watercolour pictures"),
    "jpn": ("ホーム", "写真ギャラリー", "お問い合わせ", "水彩画の写真集"),
}
_WRITE = {"zho": captions.chinese, "eng": captions.english, "jpn": captions.japanese}

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """A tag with an address: where WAT says it was found, and its attributes in order."""

    path: str
    url: str
    more: tuple[tuple[str, str], ...] = ()

    def envelope(self) -> Json:
        """Return the link as WAT writes it."""
        return {"path": self.path, "url": self.url, **dict(self.more)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A page's HTML (characters) with what Common Crawl's extractor finds in it."""

    markup: str
    title: str
    metas: list[Json]
    head: list[Link]
    scripts: list[Link]
    links: list[Link]


def document(page: Page) -> Document:
    """Write a page as HTML and list its links in document order."""
    home, gallery, contact, site = _LABELS[page.language]
    text = _sentences(page)
    title = f"{text[0]} - {site}"
    head = [Link(path="LINK@/href", url="/style.css", more=(("rel", "stylesheet"), ("type", "text/css")))]
    scripts = [Link(path="SCRIPT@/src", url="/site.js", more=(("type", "text/javascript"),))]
    menu = [_anchor("/", home), _anchor("/gallery/", gallery), _anchor("/contact.html", contact)]
    logo, waiting = _image("/static/logo.png"), _image(PLACEHOLDER, gallery)
    figures = [
        (_anchor(f"/detail/{page.number}-{number}.html"), _image(pair.src, pair.alt))
        for number, pair in enumerate(page.pairs)
    ]
    body = [
        f"<nav>{''.join(map(_tag, menu))}</nav>",
        f"{_tag(logo)}<h1>{html.escape(text[0], quote=False)}</h1>",
        *(f"<figure>{_tag(anchor, _tag(image))}</figure>" for anchor, image in figures),
        _tag(waiting),
        *(f"<p>{html.escape(sentence, quote=False)}</p>" for sentence in text[1:]),
    ]
    return Document(
        markup=_markup(page, title, text[1], [*head, *scripts], body),
        title=title,
        metas=[{"charset": page.charset}, {"name": "description", "content": text[1]}],
        head=head,
        scripts=scripts,
        links=[*menu, logo, *(link for figure in figures for link in figure), waiting],
    )


def _anchor(url: str, text: str | None = None) -> Link:
    return Link(path="A@/href", url=url, more=() if text is None else (("text", text),))


def _image(url: str, alt: str | None = None) -> Link:
    return Link(path="IMG@/src", url=url, more=() if alt is None else (("alt", alt),))


def _tag(link: Link, inside: str = "") -> str:
    """Return a link as HTML; the attribute "text" of WAT is what stands inside the tag."""
    name, attribute = link.path.lower().split("@/")
    fields = {attribute: link.url, **{key: value for key, value in link.more if key != "text"}}
    attributes = "".join(f' {key}="{html.escape(value)}"' for key, value in fields.items())
    start = f"<{name}{attributes}>"
    inside = inside or html.escape(dict(link.more).get("text", ""), quote=False)
    return start if name in ("img", "link") else f"{start}{inside}</{name}>"


def _markup(page: Page, title: str, description: str, head: list[Link], body: list[str]) -> str:
    base = "" if page.base is None else f'<base href="{page.base}">'
    lines = [
        "<!DOCTYPE html>",
        f'<html lang="{CODES[page.language][0]}">',
        f'<head><meta charset="{page.charset}">{base}<title>{html.escape(title, quote=False)}</title>',
        f'<meta name="description" content="{html.escape(description)}">',
        *map(_tag, head),
        "</head>",
        "<body>",
        *body,
        "</body></html>",
    ]
    return "\n".join(lines) + "\n"


def _sentences(page: Page) -> list[str]:
    """Return the page's title, its description and three lines of text, in the page's language."""
    dice = Dice(page.key, "text")
    return [_WRITE[page.language](page.scene, dice).strip() for _ in range(5)]
