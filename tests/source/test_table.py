"""Tables of url and text in every form give the same rows; a bad row costs a row."""

from __future__ import annotations

import csv as reference
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from toolkit.source import table
from toolkit.source.table import TEXTS, read

ROWS = [("http://a.test/1.jpg", "first, text"), ("http://a.test/2.jpg", "第二\u3000"), ("", "x")]


def parquet(columns: dict[str, list[object]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def csv() -> bytes:
    return ("url,text\n" + "".join(f'"{url}","{text}"\n' for url, text in ROWS)).encode()


FORMS = {
    "parquet": parquet({"url": [r[0] for r in ROWS], "text": [r[1] for r in ROWS]}),
    "csv": csv(),
    "csv with a byte-order mark": b"\xef\xbb\xbf" + csv(),
    "csv.gz": gzip.compress(csv()),
    "csv.zst": zstandard.compress(csv()),
    "tsv": ("n\turl\ttext\n" + "".join(f"0\t{url}\t{text}\n" for url, text in ROWS)).encode(),
    "jsonl": "\n".join(json.dumps({"url": url, "text": text, "n": 1}) for url, text in ROWS).encode(),
}


def found(data: bytes) -> tuple[list[tuple[str, str]], list[str]]:
    damages: list[str] = []
    return [(r.url, r.text) for r in read(io.BytesIO(data), lambda _, what: damages.append(what))], damages


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_rows(form):
    assert found(FORMS[form]) == (ROWS, [])


@pytest.mark.parametrize(
    "data",
    [
        b'{"url": "http://a", "text": "one"}\nnot json\n{"url": 3}\n[]\n{"url": "http://b", "text": "two"}\n',
        b"url,text\nhttp://a,one\nhttp://c\na,b,c,d\n\xff,\xfe,\x80\nhttp://b,two\n",
        parquet({"url": ["http://a", None, "http://b"], "text": ["one", "x", "two"]}),
    ],
)
def test_a_bad_row_costs_itself(data):
    good, damages = found(data)
    assert good == [("http://a", "one"), ("http://b", "two")] and damages


@pytest.mark.parametrize(
    "data", [b"", b"a,b\n1,2\n", b"PAR1 broken", gzip.compress(csv(), mtime=0)[:-9], b"\xff\xfe\x00"]
)
def test_a_table_that_can_not_be_read_is_named(data):
    assert found(data)[1]


def test_a_table_without_the_columns_is_told_which():
    assert found(b"a,b\n1,2\n") == ([], ["no column url and text (or alt_text, alt, caption) among ['a', 'b']"])


def test_bytes_that_are_no_text_cost_no_other_row():
    data = b"url,text\nhttp://a,\xe7\x8c\xab\nhttp://b,\xe7\x8c\nhttp://c,x\n"
    assert found(data) == ([("http://a", "猫"), ("http://b", "\ufffd"), ("http://c", "x")], [])


GOOD = st.tuples(st.text("ab,\"\n猫 '", min_size=1, max_size=6), st.text("ab,\"\r\n猫 '", min_size=1, max_size=6))


@given(st.lists(GOOD, max_size=8), st.sampled_from([reference.QUOTE_MINIMAL, reference.QUOTE_ALL]))
def test_csv_is_read_as_it_was_written(rows, quoting):
    text = io.StringIO()
    reference.writer(text, quoting=quoting).writerows([("url", "text"), *rows])
    assert found(text.getvalue().encode()) == (rows, [])


BAD = ['"http://x,open', 'http://x,"open', '"http://x","closed"out', "one", "1,2,3", '"http://x"y,z', '"http://x","a']


@given(
    st.lists(st.sampled_from(BAD) | st.integers(0, 9).map(lambda n: f"http://{n},good {n}"), max_size=12),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
)
def test_a_bad_row_of_csv_costs_a_row(rows, end, last):
    """Rows without a quote stay, however many rows with an open quote stand before them.

    Two open quotes may close each other, and what they make of the rows between them can be sound csv. It is not
    here: a letter follows every quote.
    """
    data = end.join(["url,text", *rows]) + (end if last else "")
    good = [tuple(row.split(",")) for row in rows if row not in BAD]
    got, damages = found(data.encode())
    assert got == good and len(damages) == len(rows) - len(good)


def test_a_quote_that_is_never_closed_costs_its_line_in_a_long_file(monkeypatch):
    rows = [(f"http://{n}", f"text {n}") for n in range(1000)]
    data = 'url,text\nhttp://x,"open\n' + "".join(f"{url},{text}\n" for url, text in rows)
    got, (damage,) = found(data.encode())
    assert got == rows and "quote" in damage
    monkeypatch.setattr(table, "MAX_LINE", 200)
    assert found(data.encode())[0] == rows


@pytest.mark.parametrize("start", ['{"url": "http://x", "text": "', "http://x,", '"http://x","'])
def test_a_line_that_is_too_long_costs_itself(monkeypatch, start):
    monkeypatch.setattr(table, "MAX_LINE", 100)
    rows = [("http://a", "one"), ("http://b", "two")]
    lines = [json.dumps({"url": u, "text": t}) if start[0] == "{" else f"{u},{t}" for u, t in rows]
    tail = 'x" ' * 40 + lines[0]
    data = "\n".join(
        [*([] if start[0] == "{" else ["url,text"]), lines[0], start + "y" * (101 - len(start)) + tail, lines[1]]
    )
    assert found(data.encode()) == (rows, ["a line over the limit of 100 characters"])


def test_a_field_of_an_unexpected_type_costs_no_row_of_json():
    lines = [{"url": "http://a", "text": "one", "page": None}, {"url": "http://b", "text": "two", "alt": 3, "page": 7}]
    assert found("\n".join(map(json.dumps, lines)).encode()) == ([("http://a", "one"), ("http://b", "two")], [])


@pytest.mark.parametrize("name", TEXTS)
def test_the_text_goes_by_the_same_names_in_every_form(name):
    for data in (
        f"url,{name}\nhttp://a,one\n".encode(),
        f"{name}\turl\none\thttp://a\n".encode(),
        json.dumps({"url": "http://a", name: "one"}).encode(),
        parquet({name: ["one"], "url": ["http://a"]}),
    ):
        assert found(data) == ([("http://a", "one")], [])


def test_a_line_of_json_with_unsound_fields_costs_itself():
    data = b'\xef\xbb\xbf{"a": "x"}\n{"a": "\xff"}\n{"url": "http://a", "text": "one"}'
    good, damages = found(data)
    assert good == [("http://a", "one")] and len(damages) == 2


def test_a_line_of_json_without_the_columns_is_told_which():
    assert found(b'{"url": "http://a", "title": "x"}') == (
        [],
        ["no column text (or alt_text, alt, caption) among ['title', 'url']"],
    )
