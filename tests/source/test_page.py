"""From tags to pairs, and from notes to pages."""

from __future__ import annotations

from urllib.parse import urljoin

from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.source.page import Image, Note, Page, Skipped, match, pairs

ORDINARY = ("http://a.example.test/x/y.html", "https://a.example.test", "http://h/?q=/b/c", "ftp://f/x", "/relative")
ODD = (
    "HTTP://A.test/x",
    "http://u@h.test/x",
    "http://h.test:80#f",
    "http://h.test\\x/y",
    "http://[bad",
    "http://中.test/",
)
BASES = st.sampled_from(ORDINARY + ODD)


def page(*images: Image, url: str = "http://a.example.test/x/y.html", base: str | None = None) -> Page:
    return Page(0, url, frozenset({url}), base, list(images))


def joined(base: str, src: str) -> str:
    try:
        return urljoin(base, src)
    except ValueError:
        return src


@given(BASES, st.from_regex(r"(https?://[a-z.]{1,8}(:8)?)?/?[a-zA-Z0-9./~%?&=+,:#;_-]{0,12}", fullmatch=True))
@settings(max_examples=300)
def test_addresses_are_exactly_what_urljoin_says(base, src):
    if src and not src.lower().startswith("data:"):
        assert pairs(page(Image(src, "text"), url=base))[0] == [(joined(base, src), "text")]


def test_what_is_no_pair_is_counted():
    tags = [
        Image(None, "x"),
        Image(" ", "x"),
        Image("data:image/gif;base64,R0lGODlhAQABAAAAACw=", "x"),
        Image(" DATA:,", "x"),
        Image("a.jpg", None),
        Image("a.jpg", ""),
        Image("a.jpg", " \u3000\n"),
        Image("a.jpg", " text "),
    ]
    found, skipped = pairs(page(*tags))
    assert found == [("http://a.example.test/x/a.jpg", " text ")]  # neither trimmed nor collapsed
    assert skipped == Skipped(no_src=2, data=2, no_alt=3)


def test_the_base_may_be_relative_or_nonsense():
    assert pairs(page(Image("a", "t"), base="../b/"))[0] == [("http://a.example.test/b/a", "t")]
    assert pairs(page(Image("http://[bad/a", "t"), base="http://[x"))[0] == [("http://[bad/a", "t")]


def test_a_note_goes_to_the_page_before_it_and_to_no_other():
    one, two = page(url="http://1/"), page(url="http://2/")
    notes = [Note(frozenset({"http://1/"}), "zho"), Note(frozenset({"http://1/"}), "eng")]
    assert [p.language for p in match([one, notes[0], two, notes[1]])] == ["zho", ""]
