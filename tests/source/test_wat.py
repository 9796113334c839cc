"""WAT envelopes: the fast decoder agrees with a plain one, and a bad field costs a field."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from urllib.parse import urljoin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from warcio.archiveiterator import ArchiveIterator

from tests.source.crawlfiles import address, envelope, members, remark, wat
from toolkit.source import warc
from toolkit.source.page import Image, Note, Page, pairs
from toolkit.source.wat import EnvelopeError, event

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SRC = st.one_of(
    TEXT, st.sampled_from(["/a.jpg", "b.png?x=1", "//h.example.test/c", "http://h.example.test/d", "data:image/gif;,"])
)
LINK = st.fixed_dictionaries(
    {"path": st.sampled_from(["IMG@/src", "IMG@/srcset", "A@/href", "img@/src"])},
    optional={"url": SRC, "alt": TEXT, "title": TEXT},
)


def reference(data: bytes) -> list[tuple[str, str]]:
    """warcio and json, read record by record without any short cut."""
    found = []
    for record in ArchiveIterator(io.BytesIO(data)):
        value = json.loads(record.content_stream().read())["Envelope"]
        response = value["Payload-Metadata"].get("HTTP-Response-Metadata", {})
        page = value["WARC-Header-Metadata"]["WARC-Target-URI"]
        html = response.get("HTML-Metadata", {})
        base = urljoin(page, html.get("Head", {}).get("Base") or "")
        for link in html.get("Links", []):
            src, alt = link.get("url", ""), link.get("alt", "")
            if link["path"] != "IMG@/src" or not src.strip() or not alt.strip() or src.lstrip().startswith("data:"):
                continue
            with suppress(ValueError):
                src = urljoin(base, src)
            found.append((src, alt))
    return found


@given(
    st.lists(
        st.tuples(st.lists(LINK, max_size=5), st.sampled_from([None, "/base/", "http://b.example.test/x/"])), max_size=4
    )
)
def test_pairs_are_those_of_a_plain_reader(pages):
    data = members(wat(envelope(n, links, base=base)) for n, (links, base) in enumerate(pages))
    found = []
    for record in warc.records(io.BytesIO(data), pytest.fail) if pages else ():
        page = event(record.offset, record.body)
        found += pairs(page)[0] if isinstance(page, Page) else []
    assert found == reference(data)


def test_a_field_of_a_wrong_type_costs_the_field():
    links = [
        {"path": "IMG@/src", "url": "/a.jpg", "alt": "first"},
        {"path": "IMG@/src", "url": ["/b.jpg"], "alt": "second"},
        "no link at all",
        {"path": "IMG@/src", "url": "/c.jpg", "alt": 42},
        {"path": 7, "url": "/d.jpg", "alt": "fourth"},
    ]
    page = event(0, envelope(1, links, status=200))
    assert isinstance(page, Page)
    assert page.images == [Image("/a.jpg", "first"), Image(None, "second"), Image("/c.jpg", "42")]


def test_a_lone_surrogate_becomes_a_replacement_character():
    body = envelope(1, [{"path": "IMG@/src", "url": "/a.jpg", "alt": "??"}]).replace(b"??", rb"a\ud83d b")
    page = event(0, body)
    assert isinstance(page, Page)
    assert pairs(page)[0] == [("http://www.example.test/a.jpg", "a\ufffd b")]


@pytest.mark.parametrize("status", ["404", "301", None, "2000"])
def test_only_status_200_is_a_page(status):
    assert event(0, envelope(1, [{"path": "IMG@/src", "url": "/a.jpg", "alt": "x"}], status=status)) is None


def test_a_note_names_its_page():
    note = event(0, remark(3, "zho"))
    assert isinstance(note, Note)
    assert note.language == "zho" and address(3) in note.about


@pytest.mark.parametrize("language", ["", "zh", "zho\n", "../../x", "ZHO"])
def test_a_language_that_is_no_code_is_none(language):
    note = event(0, remark(3, language))
    assert isinstance(note, Note) and note.language == ""


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"",
        b'{"other": 1}',
        b'{"Envelope": "IMG@/src"}',
        b'["Envelope", "IMG@/src"]',
        envelope(1, [{"path": "IMG@/src"}])[:-20],
        envelope(1, [{"path": "IMG@/src"}])[:-20] + b"}",
        envelope(1, [{"path": "IMG@/src", "alt": "??"}]).replace(b"??", b"\xff\xfe"),
        b'{"Envelope": "IMG@/src", "x": ' + b"[" * 100_000 + b"}",
    ],
)
def test_json_that_is_no_envelope_is_refused(body):
    with pytest.raises(EnvelopeError):
        event(0, body)
