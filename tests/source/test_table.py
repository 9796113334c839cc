"""Tables of url and text in every form give the same rows; a bad row costs a row."""

from __future__ import annotations

import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from toolkit.source.table import read

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
    assert found(b"a,b\n1,2\n") == ([], ["no column text and url among ['a', 'b']"])


def test_bytes_that_are_no_text_cost_no_other_row():
    data = b"url,text\nhttp://a,\xe7\x8c\xab\nhttp://b,\xe7\x8c\nhttp://c,x\n"
    assert found(data) == ([("http://a", "猫"), ("http://b", "\ufffd"), ("http://c", "x")], [])
