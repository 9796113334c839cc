"""The stage source: the same pairs from WAT and WARC, verdicts from columns, damage that costs itself."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.source.crawlfiles import MemoryTask, address, envelope, members, record, remark, response, wat
from toolkit.config.source import Source
from toolkit.data.pair import pair_id, schema
from toolkit.data.table import build
from toolkit.guard import Guard
from toolkit.source import html, stage

SAME = ["id", "url", "text", "page", "language", "language_by", "chars", "file", "dropped"]


def run(paths, kind="wat", **section) -> MemoryTask:
    task = MemoryTask(paths, kind, **{"blacklist": None, **section})
    stage.run(task)
    return task


def crawl(shared: Path, kind: str, **section) -> MemoryTask:
    return run(sorted((shared / "crawl" / kind).glob("*.gz")), kind, **section)


def test_wat_and_warc_give_the_same_pairs(shared: Path):
    one, two = crawl(shared, "wat"), crawl(shared, "warc")
    assert one.written().select(SAME).equals(two.written().select(SAME))
    assert not one.damages and not two.damages and one.tallies == two.tallies


def test_the_kind_in_the_configuration_does_not_matter(shared: Path):
    paths = sorted((shared / "crawl").glob("w*/*-00000.*gz"))
    assert run(paths, "wat").written().equals(run(paths, "table").written())


def test_what_was_planted_is_dropped_and_the_rest_stays(shared: Path):
    rows = crawl(shared, "wat", blacklist="builtin").written()
    verdicts = dict(
        zip(
            zip(rows["url"].to_pylist(), rows["text"].to_pylist(), strict=True),
            rows["dropped"].to_pylist(),
            strict=True,
        )
    )
    truth = [json.loads(line) for line in (shared / "crawl" / "truth.jsonl").read_text("utf-8").splitlines()]
    wrong = [row for row in truth if (verdicts[row["url"], row["alt"]] is not None) != (row["expect"] == "drop:source")]
    assert len(verdicts) == len(truth) and not wrong


def test_common_crawls_own_wat_of_whirlwind_describes_the_request_only(shared: Path):
    """whirlwind.warc.wat.gz holds one envelope, of the request record; the page's own is not in that file.

    So the WARC gives the page's pairs and the WAT none, and neither is damaged.
    """
    pages = run([shared / "warc" / "whirlwind.warc.gz"], language="any")
    envelopes = run([shared / "warc" / "whirlwind.warc.wat.gz"], language="any")
    rows = pages.written()
    assert rows.num_rows == 7 and envelopes.written().num_rows == 0
    assert set(zip(rows["language"].to_pylist(), rows["language_by"].to_pylist(), strict=True)) == {("spa", "cld2")}
    assert not pages.damages and not envelopes.damages


def links(*alts: str) -> list[dict[str, str]]:
    return [{"path": "IMG@/src", "url": f"/{n}.jpg", "alt": alt} for n, alt in enumerate(alts)]


def test_damage_costs_itself_and_is_named(tmp_path: Path):
    good = [wat(envelope(n, links(f"第{n}张照片的说明"))) for n in range(4)]
    broken = bytearray(gzip.compress(good[1]))
    broken[60] ^= 0xFF
    path = tmp_path / "x.gz"
    path.write_bytes(
        members([good[0]])
        + bytes(broken)
        + members([good[2], wat(b'{"no": "envelope"}'), wat(envelope(9, links("九")), length=7), good[3]])
    )
    task = run([path, path])
    assert [name[-12] for name in task.written()["page"].to_pylist()] == ["0", "2", "3"] * 2
    assert task.tallies["records.damaged"] == len(task.damages) == 6
    assert all(where.startswith(str(tmp_path)) for where, _ in task.damages)
    assert any(where == f"{path}:{len(members([good[0]]))}" for where, _ in task.damages)


def test_a_file_that_the_system_refuses_fails_the_attempt(tmp_path: Path):
    """A mount that is briefly gone must not be published as an empty file."""
    with pytest.raises(FileNotFoundError):
        run([tmp_path / "missing"])


def test_the_crawlers_language_counts_and_ours_stands_in(tmp_path: Path):
    path = tmp_path / "x.gz"
    parts = [wat(envelope(1, links("一张猫的照片"))), wat(remark(1, "jpn")), wat(envelope(2, links("一张狗的照片")))]
    path.write_bytes(members([*parts, wat(envelope(3, links("12345")))]))
    rows = run([path]).written()
    named = list(zip(rows["language"].to_pylist(), rows["language_by"].to_pylist(), strict=True))
    assert named[:2] == [("jpn", "cld2"), ("zho", "detector")]
    assert rows["dropped"].to_pylist()[:2] == ["source.language", None]


def columns(
    urls: list[str], texts: list[str] | None = None, page: str = "http://p.test/", language: str = "zho"
) -> pa.Table:
    texts = texts or ["足够长的文字"] * len(urls)
    n = len(urls)
    values = {"id": [pair_id(*pair) for pair in zip(urls, texts, strict=True)], "url": urls, "text": texts}
    values |= {"page": [page] * n, "language": [language] * n, "language_by": ["cld2"] * n, "file": [0] * n}
    values |= {"chars": [len(text.strip()) for text in texts], "record": [0] * n, "dropped": [None] * n}
    return build(schema("source"), values)


BAD = [
    "ftp://a/b",
    "//a/b",
    "/x.jpg",
    "http://",
    "http:///x",
    "http://a b/",
    "http://[::1/x",
    "http://a:99999/",
    "http://a:x/",
]
BAD += [
    "http://a/\n",
    "http://a/\x7f",
    "http://a\u0000.test/",
    "http://a/" + "x" * 2048,
    "javascript:x()",
    "about:blank",
]
GOOD = [
    "http://a/",
    "HTTPS://A.test/x?y#z",
    "http://a.test:8080/图.jpg",
    "http://[::1]/x",
    "http://u:p@h.test/",
    "http://中文.test/a b.jpg",
]


def test_an_address_that_can_not_be_fetched_is_rejected():
    rejected = stage.STEPS["source.url"](columns(BAD + GOOD), Source())
    assert rejected.tolist() == [True] * len(BAD) + [False] * len(GOOD)


def test_length_is_of_the_trimmed_text_both_ends_included():
    texts = ["四个字啊", " 四个字啊 ", "五个字的啊", "六" * 60, " " + "六" * 60 + "\n", "七" * 61]
    rows = columns(["http://a/"] * 6, texts)
    assert stage.STEPS["source.length"](rows, Source()).tolist() == [True, True, False, False, False, True]


def test_blacklist_covers_image_and_page_hosts(tmp_path: Path):
    path = tmp_path / "hosts.txt"
    path.write_text("bad.test\n", "utf-8")
    section = Source(blacklist=str(path))
    reject = stage.STEPS["source.blacklist"]
    assert reject(columns(["http://img.bad.test/x", "http://good.test/x"]), section).tolist() == [True, False]
    assert reject(columns(["http://good.test/x"], page="http://bad.test/"), section).all()
    assert not reject(columns(["http://img.bad.test/x"]), Source(blacklist=None)).any()


def test_safety_terms_are_literal_and_case_does_not_matter(tmp_path: Path):
    path = tmp_path / "terms.txt"
    path.write_text("\n".join(["Bad.Word", "坏词", *(f"filler{n}" for n in range(1200))]), "utf-8")
    rows = columns(["http://a/"] * 4, ["a bad.word b", "a badXword b", "有坏词的话", "filler1199!"])
    assert stage.STEPS["source.safety"](rows, Source(safety=str(path))).tolist() == [True, False, True, True]
    assert not stage.STEPS["source.safety"](rows, Source()).any()


def test_the_first_step_in_order_names_the_drop():
    rows = columns(["ftp://a/", "http://a/", "http://a/"], ["短", "短", "足够长的文字"], language="eng")
    assert stage.decide(rows, Source(blacklist=None))["dropped"].to_pylist() == ["source.url"] + ["source.language"] * 2
    assert stage.decide(rows, Source(blacklist=None, language="any"))["dropped"].to_pylist() == [
        "source.url",
        "source.length",
        None,
    ]


@pytest.mark.parametrize("rejects", ["rows", "counts"])
def test_counts_and_rows_tell_the_same_story(tmp_path: Path, rejects: str):
    path = tmp_path / "x.gz"
    parts = [part for n in range(40) for part in _page(n)]
    path.write_bytes(members(parts))
    task = run([path], rejects=rejects)
    rows = task.written()
    drops = Counter(step for step in rows["dropped"].to_pylist() if step) + task.counts
    assert drops == {"source.language": 1500, "source.length": 500}
    assert rows["dropped"].null_count == 2000
    if rejects == "rows":
        assert rows.num_rows == 4000 and not task.counts
    else:
        sampled = [i for i, step in zip(rows["id"].to_pylist(), rows["dropped"].to_pylist(), strict=True) if step]
        assert all(int(i[-8:], 16) % stage.SAMPLE == 0 for i in sampled) and len(sampled) < 20
        assert task.tallies["language.eng"] + Counter(rows["language"].to_pylist())["eng"] == 1500
        assert task.tallies["host.www.example.test"] == 2000 - len(sampled)


def _page(n: int) -> list[bytes]:
    text = "短" if n % 8 == 0 else "足够长的照片说明"
    language = ("zho", "zho", "zho", "eng")[n % 4] if n % 8 else "zho"
    language = "eng" if n in (1, 2, 5, 6, 9) else language
    return [
        wat(envelope(n, [{"path": "IMG@/src", "url": f"/{n}/{k}.jpg", "alt": text} for k in range(100)])),
        wat(remark(n, language)),
    ]


def test_batches_are_cut_at_ten_thousand_rows(tmp_path: Path):
    path = tmp_path / "x.gz"
    alts = [f"第{n}张照片" for n in range(4000)]
    path.write_bytes(members(wat(envelope(n, links(*alts))) for n in range(6)))
    task = run([path])
    assert [t.num_rows for t in task.tables] == [12000, 12000]
    record = np.asarray(task.written()["record"])
    assert (np.diff(record) >= 0).all() and len(set(record.tolist())) == 6


def test_a_table_gives_rows_too(tmp_path: Path):
    path = tmp_path / "pairs"
    path.write_text("url,text\nhttp://a.test/1.jpg,一张猫的照片\nhttp://a.test/2.jpg,short\n", "utf-8")
    rows = run([path], "table").written()
    assert rows["record"].to_pylist() == [0, 1] and rows["dropped"].to_pylist()[0] is None


def test_html_pages_of_a_warc_are_told_from_the_rest(tmp_path: Path):
    path = tmp_path / "x.warc.gz"
    html = '<img src="a.jpg" alt="一张猫的照片">'.encode()
    path.write_bytes(
        members([response(1, html), response(2, html, "Content-Type: text/plain"), response(3, html, status="404 x")])
    )
    assert run([path]).written()["page"].to_pylist() == [address(1)]


HOSTILE = {
    "memory": "<p>" + "".join(f"<b a={n}>" for n in range(900)) + "<p>x" * 900,
    "time": "<div>" * 200_000,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_page_made_to_exhaust_the_parser_costs_itself(tmp_path: Path, monkeypatch, kind):
    monkeypatch.setattr(html, "MEMORY_MB", 100)
    monkeypatch.setattr(html, "TIMEOUT_S", 0.5)
    good = [response(n, f'<img src=/{n}.jpg alt="第{n}张照片的说明">'.encode()) for n in range(4)]
    parts = [*good[:2], response(8, HOSTILE[kind].encode()), *good[2:]]
    path = tmp_path / "x.warc.gz"
    path.write_bytes(members(parts))
    task = run([path], "warc")
    assert [url[-5] for url in task.written()["url"].to_pylist()] == ["0", "1", "2", "3"]
    assert task.tallies["records.damaged"] == 1
    ((where, what),) = task.damages
    assert where == f"{path}:{len(members(parts[:2]))}" and kind in what


def test_pages_and_notes_keep_their_order_over_many_batches(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(stage, "HELD", 5)
    parts = []
    for n in range(23):
        note = b'languages-cld2: {"languages": [{"code-iso-639-3": "l%c%c"}]}' % (97 + n // 10, 97 + n % 10)
        parts.append(response(n, f"<img src=/{n}.jpg alt=x>".encode()))
        parts.append(record("metadata", note, WARC_Concurrent_To=f"<urn:response:{n}>"))
    path = tmp_path / "x.warc.gz"
    path.write_bytes(members(parts))
    rows = run([path], "warc").written()
    assert rows["page"].to_pylist() == [address(n) for n in range(23)]
    assert rows["language"].to_pylist() == [f"l{chr(97 + n // 10)}{chr(97 + n % 10)}" for n in range(23)]


def test_wat_starts_no_child(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(Guard, "_start", lambda self: pytest.fail("a child was started"))
    path = tmp_path / "x.wat.gz"
    path.write_bytes(members([wat(envelope(n, links("一张猫的照片"))) for n in range(3)]))
    assert run([path]).written().num_rows == 3
