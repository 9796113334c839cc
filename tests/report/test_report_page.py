"""The report page: right numbers, harmless whatever the crawl says, the same bytes, and there for unfinished runs."""

from __future__ import annotations

import base64
import io
import re
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from selectolax.lexbor import LexborHTMLParser

from tests.crawl import danqing
from tests.report.hostile import CHINESE, OWNED, addresses, attacks, make
from toolkit.data.pair import schema
from toolkit.data.visible import visible
from toolkit.guard import Fault
from toolkit.recipe import BY_NAME, REWRITES, STAGES
from toolkit.report import samples
from toolkit.report.page import LONGEST, page
from toolkit.report.reasons import REASONS, measure
from toolkit.report.thumbnail import MOST, SIDE, thumbnail
from toolkit.run.funnel import funnel
from toolkit.run.run import open_run

MB = 1_000_000
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def html(run: Path) -> bytes:
    return page(open_run(run))


@pytest.fixture(scope="module")
def tree(html: bytes) -> LexborHTMLParser:
    return LexborHTMLParser(html)


def cards(tree: LexborHTMLParser, step: str) -> list[str]:
    """Return the text of each card of a step's sample."""
    for head in tree.css("h3"):
        if head.attributes.get("id") == step:
            following = head.next
            while following is not None and following.tag != "ul":
                following = following.next
            assert following is not None
            return [card.text() for card in following.css("li")]
    raise AssertionError(f"no sample of {step}")


def test_the_funnel_is_that_of_the_run(run: Path, tree: LexborHTMLParser) -> None:
    rows = [[cell.text(strip=True) for cell in row.css("td")] for row in tree.css("table")[0].css("tbody tr")]
    expected = funnel(open_run(run))
    assert [row[0] for row in rows] == [row.step for row in expected]
    for shown, row in zip(rows, expected, strict=True):
        assert shown[1] == ("not run" if row.left is None else f"{row.left:,}")
        if row.state == "run" and row.dropped is not None:
            assert shown[2] == f"{row.dropped:,}"
            assert shown[3] == f"{100 * row.dropped / (row.left + row.dropped):.1f}"
        assert shown[5] == ("" if row.paper_left is None else f"{row.paper_left:,}")


def test_nothing_on_the_page_can_run_or_ask_for_anything(html: bytes, tree: LexborHTMLParser) -> None:
    assert tree.css("script, iframe, object, embed, svg, link, base, form, video, audio, input") == []
    for node in tree.css("*"):
        for name, value in node.attributes.items():
            assert not name.startswith("on"), (node.tag, name)
            if name in ("src", "href", "srcset", "action", "data", "poster"):
                assert (value or "").startswith(("data:image/jpeg;base64,", "#")), value
    metas = [(node.attributes.get("http-equiv") or "", node.attributes.get("content")) for node in tree.css("meta")]
    assert [m for m in metas if m[0]] == [("Content-Security-Policy", POLICY)]
    assert len(tree.css("style")) == 1
    assert "url(" not in (tree.css_first("style").text() or "")
    assert not re.search(rb"<(script|iframe|svg|img src=[^\"d])", html)


def test_every_attack_is_shown_as_the_text_that_it_is(tree: LexborHTMLParser) -> None:
    shown = {node.text(strip=True) for node in tree.css("bdi")}
    for text in [f"{CHINESE}{attack}" for attack in attacks("BEACON")]:
        fits = [s for s in shown if re.sub(r"http://127\.0\.0\.1:\d+/beacon", "BEACON", s) == visible(text, LONGEST)]
        assert fits, text
    assert set(addresses()) <= shown
    assert OWNED not in tree.css_first("title").text()


def test_no_control_or_direction_character_reaches_the_reader(html: bytes) -> None:
    odd = {c for c in html.decode() if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert odd == set()


def test_each_step_shows_what_it_dropped_and_why(run: Path, tree: LexborHTMLParser) -> None:
    for row in funnel(open_run(run)):
        if row.state == "run" and row.dropped:
            found = cards(tree, row.step)
            assert len(found) == min(row.dropped, samples.DROPPED), row.step
    assert "texture 0, at least 2" in cards(tree, "image.texture")[0]
    assert "160 x 20 pixels, sides at most 3 : 1, the shorter one above 100" in cards(tree, "image.shape")[0]
    assert "content 0, at least 2" in cards(tree, "text.stopwords")[0]
    assert "the same pair stands in shard 0" in cards(tree, "source.duplicate")[0]
    assert "HTTP status 404" in cards(tree, "fetch.http_4xx")[0]
    assert "the pixels are cut or damaged" in cards(tree, "image.decode")[0]


def test_near_duplicates_stand_beside_their_survivor(tree: LexborHTMLParser) -> None:
    batch, merged = cards(tree, "dedup.batch"), cards(tree, "merge.global")
    assert len(batch) == len(merged) == 1
    for card in (*batch, *merged):
        assert "in a set of 2, linked by distances below 0.1" in card
        assert card.count("· shard") == 2
    assert {"shard 0", "shard 1"} <= set(re.findall(r"shard \d", merged[0]))


def test_what_was_kept_is_shown_with_small_pictures(run: Path, tree: LexborHTMLParser) -> None:
    kept = next(node for node in tree.css("ul") if node.attributes.get("class") == "cards")
    left = funnel(open_run(run))[-1].left
    assert len(kept.css("li")) == len(kept.css("img")) == left
    for node in tree.css("img"):
        data = base64.b64decode((node.attributes["src"] or "").partition(",")[2])
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == "JPEG"
            assert max(image.size) <= SIDE


def test_the_same_run_gives_the_same_bytes_wherever_it_lies(run: Path, html: bytes, tmp_path: Path) -> None:
    moved = tmp_path / "run"
    shutil.copytree(run, moved)
    assert page(open_run(moved)) == html
    assert len(html) < MB
    assert str(run.parent).encode() not in html


def test_the_command_writes_the_page_and_says_where(run: Path, html: bytes) -> None:
    path = run / "report.html"
    assert danqing("report", run).stdout.strip() == str(path)
    assert path.read_bytes() == html
    assert [p.name for p in run.glob(".report*")] == []


def test_a_run_that_has_not_begun_has_a_page(run: Path, tmp_path: Path) -> None:
    for name in ("run.yaml", "inputs.jsonl"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    tree = LexborHTMLParser(page(open_run(tmp_path)))
    text = tree.body.text()
    assert "not complete" in text
    assert "10_source: 2 units not done (000000, 000001)" in text
    assert tree.css("h3") == []
    assert "not reached" in text


def test_an_unfinished_run_shows_what_is_there(run: Path, tmp_path: Path) -> None:
    """The second shard was not fetched yet, and nothing behind it was begun."""
    part = tmp_path / "run"
    shutil.copytree(run, part, ignore=shutil.ignore_patterns("[4-9]0_*"))
    (part / "30_fetch" / "done.parquet").unlink(missing_ok=True)
    (part / "30_fetch" / "done" / "000" / "000001.json").unlink()
    tree = LexborHTMLParser(page(open_run(part)))
    text = tree.body.text()
    assert "30_fetch: 1 unit not done (000001)" in text
    assert "pairs that are left after 30_fetch" in text
    rows = {row.css("td")[0].text(strip=True): row for row in tree.css("table")[0].css("tbody tr")}
    assert rows["image.blur"].css("td")[1].text() == "not reached"
    assert "partly done" in rows["fetch.http_4xx"].text()
    assert cards(tree, "fetch.http_4xx")


@pytest.mark.parametrize("name", ["10_source/data/000/000000.parquet", "30_fetch/data/000/000000.tar"])
def test_a_damaged_file_of_the_run_costs_its_samples_and_is_named(run: Path, tmp_path: Path, name: str) -> None:
    broken = tmp_path / "run"
    shutil.copytree(run, broken)
    (broken / name).unlink()
    tree = LexborHTMLParser(page(open_run(broken)))
    assert f"{name} is damaged or gone" in tree.body.text()
    assert cards(tree, "image.texture")


def test_a_sample_searches_few_tables(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "SHARDS", 1)
    found = samples.samples(open_run(run))
    assert found.kept is not None
    assert {pair.shard for pair in found.kept.pairs} == {0}
    merged = next(sample for sample in found.dropped if sample.step == "merge.global")
    assert all(pair.survivor is not None or pair.away is not None for pair in merged.pairs)


def test_every_step_can_say_why() -> None:
    assert set(REASONS) == {step for stage in STAGES for step in stage.steps} - set(REWRITES)
    for stage in STAGES:
        for step in set(stage.steps) - set(REWRITES):
            name = REASONS[step].column
            assert name is None or name in schema(stage.name).names
            assert (measure(stage.name, step) == "") == (name is None)
    assert BY_NAME["unique"].steps == ("source.duplicate",)


def test_a_thumbnail_is_small_and_holds_nothing_of_the_file() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (700, 500, 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(noise).save(sink, "JPEG", quality=95, comment=b"secret comment", exif=b"Exif\0\0secret")
    small = thumbnail(sink.getvalue(), max_pixels=MB)
    with Image.open(io.BytesIO(small)) as image:
        assert image.size == (round(SIDE * 5 / 7), SIDE)
    assert b"secret" not in small
    assert len(small) <= MOST
    with pytest.raises(Fault):
        thumbnail(sink.getvalue(), max_pixels=1000)
    with pytest.raises(Fault):
        thumbnail(b"<svg onload=alert(1)>", max_pixels=MB)


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        ("红色的汽车", None, "红色的汽车"),
        ("a\u202eb", None, "a\\u202eb"),
        ("\x1b[2J\n", None, "\\x1b[2J\\n"),
        ("\U000e0041", None, "\\U000e0041"),
        ("12345", 5, "12345"),
        ("123456", 5, "1234…"),
        ("\u202e\u202e", 8, "\\u202e\\…"),
    ],
)
def test_hidden_characters_are_made_visible_and_texts_are_cut(text: str, limit: int | None, expected: str) -> None:
    assert visible(text, limit) == expected
