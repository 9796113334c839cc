"""The stage text: what it measures, whom it drops first, and that it runs on plain files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.config.config import Config, check
from toolkit.config.text import Text
from toolkit.data.pair import pair_id, schema
from toolkit.recipe import BY_NAME
from toolkit.run.plain import run_stage
from toolkit.text.stage import FUNNEL, STEPS, judge, measure, rewritten, tools
from toolkit.text.words import count, ranked

SHARED = Path(__file__).parents[3] / "shared" / "data"
CAPTIONS = [
    "博物馆里的陶瓷展示照片",
    "關於長頸鹿的精美桌布素材",
    "😀野外拍攝的拖拉機★實景圖",
    "我们的是的了吗",
    "a photo of a throne",
    "色情电影在线观看网站",
]
OFF = Text(min_chinese=None, min_content=None, min_nouns=None, min_entropy=None, lexicon=None)


def table(texts: list[str], section: Text, **thresholds: Any) -> pa.Table:
    kit = tools(section, ranked(count(texts)))
    ids = pa.chunked_array([pa.array([pair_id("u", str(n)) for n in range(len(texts))], pa.string())])
    return judge(ids, measure(texts, section, kit), section.model_copy(update=thresholds))


def config(**sections: Any) -> Config:
    return check({"input": {"kind": "table", "paths": ["-"]}, **sections}, "test")


def save(path: Path, texts: list[str]) -> Path:
    ids = [pair_id(path.name, text) for text in texts]
    pq.write_table(pa.table({"id": ids, "text": texts}), path)
    return path


def test_the_recipe_lists_these_steps() -> None:
    assert BY_NAME["text"].steps == FUNNEL
    assert list(STEPS) == [step for step in FUNNEL if step not in {"text.simplified", "text.symbols"}]


def test_captions_are_refined_and_judged() -> None:
    found = table(CAPTIONS, Text())
    assert found.schema == schema("text")
    assert found["caption"].to_pylist()[:3] == [
        "博物馆里的陶瓷展示照片",
        "关于长颈鹿的精美桌布素材",
        "野外拍摄的拖拉机实景图",
    ]
    assert found["dropped"].to_pylist() == [None, None, None, "text.stopwords", "text.language", "text.safety"]
    assert found["term"].to_pylist()[5] == "色情"
    assert rewritten(found, Text()) == {"text.simplified": 2, "text.symbols": 1}


def test_rewriting_steps_that_are_off_leave_the_caption_and_count_nothing() -> None:
    off = Text(simplify=False, symbols=False)
    found = table(CAPTIONS, off)
    assert found["caption"].to_pylist()[2] == CAPTIONS[2]
    assert rewritten(found, off) == {"text.simplified": 0, "text.symbols": 0}
    assert found["symbols"].to_pylist() == table(CAPTIONS, Text())["symbols"].to_pylist()


@given(
    st.fixed_dictionaries(
        {
            "min_chinese": st.none() | st.floats(0, 1),
            "min_content": st.none() | st.integers(0, 12),
            "min_nouns": st.none() | st.integers(0, 4),
            "min_entropy": st.none() | st.floats(0, 3),
        }
    )
)
def test_thresholds_change_the_verdict_only_and_the_first_failing_step_is_named(limits: dict[str, Any]) -> None:
    base, found = table(CAPTIONS, Text()), table(CAPTIONS, Text(), **limits)
    assert found.drop_columns(["dropped"]) == base.drop_columns(["dropped"])
    assert found["dropped"].to_pylist() == [first(row, limits) for row in base.to_pylist()]


def first(row: dict[str, Any], limits: dict[str, Any]) -> str | None:
    checks = [
        ("text.language", row["chinese"], limits["min_chinese"]),
        ("text.stopwords", row["content"], limits["min_content"]),
        ("text.noun", row["nouns"], limits["min_nouns"]),
        ("text.entropy", row["text_entropy"], limits["min_entropy"]),
    ]
    failed = [step for step, value, least in checks if least is not None and value < least]
    return (failed + ["text.safety"] * (row["term"] is not None) + [None])[0]


def test_steps_without_a_threshold_reject_nothing() -> None:
    assert table(CAPTIONS, OFF)["dropped"].null_count == len(CAPTIONS)


def test_hostile_texts_are_measured_and_dropped() -> None:
    texts = ["", "\ud800\udfff", "\x00" * 40, "\u200b" * 9, " \n\t", "的" * 40_000, "é\u0301" * 50]
    found = table(texts, Text())
    assert found["content"].to_pylist()[5] == 0
    assert found["dropped"].null_count == 0


def test_counts_that_do_not_fit_are_capped() -> None:
    assert table(["😀" * 40_000 + "陶瓷照片"], Text())["symbols"].to_pylist() == [32767]


def test_unknown_tokens_drop_where_a_tokenizer_is_given(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="the extra `train` is not installed")
    known = {char: n for n, char in enumerate(["[UNK]", *dict.fromkeys("博物馆里的陶瓷展示照片")])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(known, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = table(CAPTIONS[:2], Text(tokenizer=str(tmp_path)))
    assert found["unknown"].to_pylist() == [0, 11]
    assert found["dropped"].to_pylist() == [None, "text.unknown"]


def test_on_plain_files_it_counts_words_itself_and_gives_the_same_bytes_twice(tmp_path: Path) -> None:
    source = save(tmp_path / "pairs.parquet", CAPTIONS)
    one = run_stage("text", [source], tmp_path / "one.parquet", config())
    run_stage("text", [source], tmp_path / "two.parquet", config())
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    assert pq.read_table(tmp_path / "one.parquet")["dropped"].null_count == 3
    assert dict(one.books.counts) == {"text.simplified": 2, "text.symbols": 1}


def test_words_of_many_files_are_those_of_one(tmp_path: Path) -> None:
    parts = [save(tmp_path / f"part{n}.parquet", CAPTIONS[n::2]) for n in range(2)]
    run_stage("words", parts, tmp_path / "words.parquet", config())
    found = pq.read_table(tmp_path / "words.parquet")
    assert found.to_pylist() == ranked(count(CAPTIONS)).to_pylist()


def test_words_of_a_sample_are_fewer(tmp_path: Path) -> None:
    texts = [f"照片第{n}张" for n in range(200)]
    run_stage("words", [save(tmp_path / "a.parquet", texts)], tmp_path / "w.parquet", config(words={"pairs": 50}))
    (row,) = pq.read_table(tmp_path / "w.parquet", filters=[("word", "==", "照片")]).to_pylist()
    assert 25 <= row["count"] <= 75


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data of ../shared/data is not here")
def test_real_captions_pass_and_planted_ones_are_dropped() -> None:
    truth = [json.loads(line) for line in (SHARED / "crawl" / "truth.jsonl").read_text("utf-8").splitlines()]
    shown = (SHARED / "web-pairs" / "captions.tsv").read_text("utf-8").splitlines()
    rows = truth + [{"alt": line.split("\t")[1].strip(), "kind": "web_pair", "expect": "keep"} for line in shown]
    found = table([row["alt"] for row in rows], Text())
    for row, dropped, score in zip(rows, found["dropped"].to_pylist(), found["chinese"].to_pylist(), strict=True):
        if row["kind"] in {"english", "japanese", "filename", "emoji"}:
            assert dropped == "text.language", row
            assert score < 0.07
        elif row["kind"] != "short":
            assert dropped is None, row
            assert score > 0.22
