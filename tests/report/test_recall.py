"""What an inexact search of near-duplicates has measured reaches whoever looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from tests.report.begun import begun, write
from toolkit.report import schemas
from toolkit.report.display import summary
from toolkit.report.page import page
from toolkit.report.recall import counted, words
from toolkit.report.status import lines, status
from toolkit.run.drive import Outcome
from toolkit.run.ledger import Mark
from toolkit.run.run import Run, open_run

SAID = "recall of merge: 0.9950, measured: of the 1,200 near-duplicates of 2,048 sampled images, 1,194 are in one set"


def searched(folder: Path, facts: dict[str, Any] | None = None, batches: int = 1, **tallies: int) -> Run:
    """Make a run without rows that is done up to merge, whose mark has these tallies and facts, if any."""
    run = begun(folder, shards=batches, kind="inline", batches=batches)
    for stage in run.stages[: 1 + [stage.name for stage in run.stages].index("merge")]:
        for unit in range(run.all_units(stage)):
            told = {f"recall.{key}": number for key, number in tallies.items()} if stage.name == "merge" else {}
            mark = Mark(
                stage=stage.folder,
                unit=unit,
                version=stage.version,
                outputs=[],
                inputs=run.input_digests(stage, unit) or {},
                rows_in=0,
                rows_out=0,
                tallies=told,
                facts=(facts or {}) if stage.name == "merge" else {},
            )
            write(run.layout.mark(stage, unit), msgspec.json.encode(mark))
        run.forget()
    return open_run(run.layout.root)


def test_recall_is_shown_in_status_report_and_at_the_end_of_a_run(tmp_path: Path) -> None:
    run = searched(tmp_path, queries=2048, edges=1200, found=1194)
    tree = status(run)
    assert tree["recall"] == [{"stage": "merge", "queries": 2048, "edges": 1200, "found": 1194, "recall": 0.995}]
    assert msgspec.to_builtins(msgspec.convert(tree, schemas.Status))["recall"] == tree["recall"]
    assert [line for line in lines(tree) if line.startswith(SAID)]
    assert SAID in page(run).decode()
    assert [line for line in summary(run, Outcome()) if line.startswith(SAID)]


def test_an_exact_search_says_nothing_of_recall(tmp_path: Path) -> None:
    run = searched(tmp_path)
    assert status(run)["recall"] == []
    assert "recall" not in page(run).decode()


def test_recall_of_no_edges_is_not_known() -> None:
    item = counted("dedup", {"recall.queries": 7, "recall.edges": 0, "recall.found": 0})
    assert item["recall"] is None
    assert words(item) == "recall of dedup: not known, since 7 sampled images are near-duplicates of none"
