"""How the exact join compares rows is noted by the task and told to whoever looks; no digest covers it."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.report.test_recall import searched
from toolkit.config.config import check
from toolkit.data import features
from toolkit.recipe import BY_NAME
from toolkit.report import schemas
from toolkit.report.display import stage_lines
from toolkit.report.joins import words
from toolkit.report.page import page
from toolkit.report.status import lines, status
from toolkit.run.ledger import Mark
from toolkit.run.plain import run_stage
from toolkit.run.run import open_run
from toolkit.run.task import RunTask

SHORT = "shadows of 97 of 768 values in bfloat16 on the CPU, leaving 40 of a million pairs"


def noted(folder: Path, **facts: list[str]) -> dict:
    """The state of a run whose merge has these facts, and the lines and the page that tell of it."""
    run = searched(folder, facts=facts)
    tree = status(run)
    return tree | {"lines": list(lines(tree)), "page": page(run).decode()}


def test_how_images_were_compared_is_shown_in_status_and_report(tmp_path: Path) -> None:
    found = noted(tmp_path, join=[SHORT, "whole tiles of 768 values in float32 by NumPy"])
    assert [(one["stage"], one["told"], one["units"]) for one in found["joins"]] == [
        ("merge", SHORT, 1),
        ("merge", "whole tiles of 768 values in float32 by NumPy", 1),
    ]
    assert msgspec.to_builtins(msgspec.convert(found, schemas.Status))["joins"] == found["joins"]
    assert f"join of merge: {SHORT}" in found["lines"]
    assert f"join of merge: {SHORT}" in found["page"]


def test_of_many_ways_the_most_frequent_are_shown(tmp_path: Path) -> None:
    """Ranks of many machines choose by what they measure; JSON has every way."""
    told = ["a", "b", "cd", "d", "de", "c", "f", "cd", "f", "", "b", "g"]
    run = searched(tmp_path, facts={"join": ["d", "x"]}, batches=len(told))
    for unit, ways in enumerate(told):
        path = run.layout.mark(BY_NAME["dedup"], unit)
        path.write_text(json.dumps(json.loads(path.read_bytes()) | {"facts": {"join": list(ways)}}))
    run = open_run(run.layout.root)
    tree = status(run)
    counted = [(one["told"], one["units"]) for one in tree["joins"] if one["stage"] == "dedup"]
    assert counted == [("d", 4), ("c", 3), ("b", 2), ("f", 2), ("a", 1), ("e", 1), ("g", 1)]
    shown = ["d (4 units)", "c (3 units)", "b (2 units)", "and 4 other ways"]
    expected = [*(f"join of dedup: {one}" for one in shown), "join of merge: d", "join of merge: x"]
    assert [line for line in lines(tree) if line.startswith("join")] == expected
    assert re.findall("join of [^<]*", page(run).decode()) == expected


def test_one_way_more_than_are_shown_is_one_way() -> None:
    ways = [{"stage": "merge", "told": told, "units": 1} for told in "abcd"]
    assert list(words(ways))[3:] == ["join of merge: and 1 other way"]
    assert len(list(words(ways[:3]))) == 3


def test_marks_of_older_toolkits_tell_of_no_join(tmp_path: Path) -> None:
    found = noted(tmp_path)
    assert found["joins"] == []
    assert not [line for line in found["lines"] if line.startswith("join")]


def test_how_images_were_compared_changes_no_digest() -> None:
    mark = Mark(stage="60_dedup", unit=0, version=1, outputs=[], inputs={}, rows_in=0, rows_out=0)
    assert msgspec.structs.replace(mark, facts={"join": [SHORT]}).digest == mark.digest


@pytest.mark.parametrize("stage", ["dedup", "merge"])
def test_a_stage_on_plain_files_says_how_it_compared(tmp_path: Path, stage: str) -> None:
    sink = io.BytesIO()
    rows = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float16)
    features.write(sink, ids=np.eye(5, 16, dtype=np.uint8), image=[rows], dim=16)
    (tmp_path / "a.h5").write_bytes(sink.getvalue())
    config = check({"input": {"kind": "table", "paths": ["-"]}}, "test")
    task = run_stage(stage, [tmp_path / "a.h5"], tmp_path / "sets.parquet", config)
    assert f"join of {stage}: whole tiles of 16 values in float32 by NumPy" in list(stage_lines(task))


def test_what_a_unit_notes_stands_in_its_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At once, since a join may take weeks."""
    run = searched(tmp_path)
    capsys.readouterr()
    RunTask(run, BY_NAME["merge"], 0, tmp_path, {}).note("join", [SHORT, "another"])
    assert capsys.readouterr().out.endswith(f" merge 000000: join: {SHORT}; another\n")
