"""The card: front matter that machines obey, a page that says what is in the dataset and what is not."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.config import Config
from toolkit.data.pair import schema
from toolkit.data.stage import FunnelRow, Output
from toolkit.export.card import card, category, escape, options

FILES = [
    Output(path="000/000000.parquet", bytes=1000, digest="aa", rows=12_345),
    Output(path="000/000000.tar", bytes=90_000, digest="bb", rows=None),
]
RAW = FunnelRow(step="raw", left=20_000, dropped=None, paper_left=1_047_085_609, paper_dropped=None, state="run")
BLUR = FunnelRow(
    step="image.blur",
    left=15_000,
    dropped=5_000,
    paper_left=333_255_945,
    paper_dropped=18_948_605,
    state="run",
)
SIMPLIFIED = FunnelRow(
    step="text.simplified", left=20_000, dropped=77, paper_left=None, paper_dropped=None, state="rewrite"
)
BAND = FunnelRow(step="align.band", left=None, dropped=None, paper_left=None, paper_dropped=None, state="not run")


def configured(**tree: Any) -> Config:
    whole = {"input": {"kind": "wat", "paths": ["/home/someone/secret/*.gz"]}, **tree}
    return Config.model_validate_json(json.dumps(whole))


def page(config: Config | None = None, missing: tuple[int, ...] = ()) -> str:
    return card(config or configured(), FILES, [RAW, SIMPLIFIED, BLUR, BAND], missing, "c0ffee")


def front(text: str) -> Any:
    return yaml.safe_load(text.partition("\n---\n")[0].removeprefix("---\n"))


def cells(text: str, first: str) -> list[str]:
    [line] = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_front_matter_names_title_licence_language_size_and_files() -> None:
    facts = front(page(configured(export={"name": "丹青 2025", "license": "cc-by-4.0"})))
    assert facts["pretty_name"] == "丹青 2025"
    assert facts["license"] == "cc-by-4.0"
    assert facts["language"] == ["zh"]
    assert facts["size_categories"] == ["10K<n<100K"]
    [files] = facts["configs"]
    assert files["data_files"] == [{"split": "train", "path": "**/*.parquet"}]


@pytest.mark.parametrize(
    ("pairs", "name"),
    [
        (0, "n<1K"),
        (999, "n<1K"),
        (1000, "1K<n<10K"),
        (99_892_381, "10M<n<100M"),
        (10**11, "100B<n<1T"),
        (10**13, "n>1T"),
    ],
)
def test_category_is_the_hub_s(pairs: int, name: str) -> None:
    assert category(pairs) == name


def test_funnel_stands_beside_the_paper_s() -> None:
    text = page()
    assert cells(text, "`raw`")[1:] == ["20,000", "", "", "1,047,085,609", "", ""]
    assert cells(text, "`image.blur`")[1:] == [
        "15,000",
        "5,000",
        "25.00 %",
        "333,255,945",
        "18,948,605",
        "5.38 %",
    ]
    assert cells(text, "`text.simplified`")[1:] == ["20,000", "rewrites 77", "", "", "", ""]
    assert cells(text, "`align.band`")[1:] == ["not run", "", "", "", "", ""]


def test_steps_that_were_not_run_are_named() -> None:
    assert "still here: `align.band`." in page()
    assert "Every step of the recipe was run." in card(configured(), FILES, [RAW, BLUR], (), "c0ffee")


def test_missing_shards_are_counted() -> None:
    assert "Nothing: all shards" in page()
    assert "Missing shards: 2." in page(missing=(4, 7))


def test_every_column_has_its_dtype_and_unit() -> None:
    text = page()
    for field in schema("export"):
        assert cells(text, f"`{field.name}`")[1] == str(field.type)
    assert cells(text, "`offset`")[2] == "bytes"


def test_thresholds_are_those_of_the_configuration() -> None:
    text = page(configured(image={"min_side": 222, "min_texture": None}, align={"l2": [1.06, 1.24]}))
    assert cells(text, "`image.min_side`")[1] == "222"
    assert cells(text, "`image.min_texture`")[1] == "null"
    assert cells(text, "`align.l2`")[1] == "1.06, 1.24"
    assert cells(page(), "`align`")[1] == "null"


def test_nothing_of_the_machine_stands_in_the_card() -> None:
    site = {
        "run_dir": "/scratch/someone/run",
        "fetch": {"contact": "mailto:x@local.test", "resolve": {"a.test": "127.0.0.1:81"}, "concurrency": 77},
        "executor": {"kind": "inline", "workers": 3},
        "text": {"stopwords": "/home/someone/stop.txt"},
    }
    text = page(configured(**site))
    assert text == page(configured(text={"stopwords": "elsewhere/other.txt"}))
    assert "someone" not in text
    assert cells(text, "`text.stopwords`")[1] == "own list"


def test_options_cover_every_decision_once() -> None:
    names = [name for name, _ in options(configured())]
    assert len(names) == len(set(names))
    assert {"batches", "source.min_chars", "text.min_entropy", "dedup.distance"} <= set(names)
    assert not any(name.startswith(("input", "executor", "export", "run_dir")) for name in names)


def test_loading_follows_what_is_published() -> None:
    assert "webdataset.WebDataset" in page()
    without = page(configured(export={"images": False}))
    assert "webdataset" not in without
    assert "images themselves are not published" in without
    assert "load_dataset" in without


def test_contact_for_removal_is_given_or_said_to_be_missing() -> None:
    assert "Write to: mail@a.test" in page(configured(export={"contact": "mail@a.test"}))
    assert "No contact was configured" in page()


@settings(max_examples=40)
@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20))
def test_any_title_and_licence_survive_in_one_line(title: str) -> None:
    text = page(configured(export={"name": title, "license": title}))
    facts = front(text)
    assert facts["pretty_name"] == facts["license"] == " ".join(title.split())
    assert facts["configs"] == front(page())["configs"]


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_escape_leaves_one_line_without_markup_and_loses_nothing(text: str) -> None:
    escaped = escape(text)
    assert len(escaped.splitlines()) <= 1
    assert re.sub(r"\\(.)", r"\1", escaped) == " ".join(text.split())
    assert not set(re.sub(r"\\.", "", escaped)) & set("`*_[]<>|#$&~\\")
