"""The funnel: how many pairs each step of the recipe left, beside the paper's counts."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

from toolkit.data.stage import FunnelRow, Kind
from toolkit.recipe import ABSENT, BY_NAME, PAPER, REWRITES, STAGES, not_run
from toolkit.run.run import Run

State = Literal["run", "not run", "rewrite", "missing"]


def funnel(run: Run) -> list[FunnelRow]:
    """Return one row per step in recipe order; `left` and `dropped` are None for steps that no shard has reached.

    Pairs of shards that a stage has not done (or that were set aside) leave the funnel in a row of their own.
    """
    off = not_run(run.config)
    left = run.marks(BY_NAME["source"]).sum("rows_in")
    rows = [_row("raw", left or None, None, "run")]
    for stage in STAGES:
        marks = run.sound(stage) if stage in run.stages else None
        if marks and stage.kind is not Kind.REDUCE and left > (arrived := marks.sum("rows_in")):
            rows.append(_row(f"{stage.name}: shards not done", arrived, left - arrived, "missing"))
            left = arrived
        for step in stage.steps:
            if step in off:
                rows.append(_row(step, None, None, "not run"))
            elif not marks:
                rows.append(_row(step, None, None, "run"))
            elif step in REWRITES:
                rows.append(_row(step, left, marks.sum(f"counts.{step}"), "rewrite"))
            else:
                drops = marks.sum(f"drops.{step}")
                left -= drops
                rows.append(_row(step, left, drops, "run"))
        rows += [_row(step, None, None, "not run") for step, before in ABSENT.items() if before == stage.name]
    return rows


def _row(step: str, left: int | None, dropped: int | None, state: State) -> FunnelRow:
    paper_left, paper_dropped = paper(step)
    return FunnelRow(
        step=step, left=left, dropped=dropped, paper_left=paper_left, paper_dropped=paper_dropped, state=state
    )


def paper(step: str) -> tuple[int | None, int | None]:
    """Return the pairs that the paper's row left and dropped, on the last of our steps that make up that row."""
    if step == "raw":
        return PAPER[0].left, None
    for before, row in pairwise(PAPER):
        last = row.steps[-1]
        if step == last or (last == "fetch" and step == "fetch.host_down"):
            return row.left, before.left - row.left
    return None, None


def tree(rows: list[FunnelRow]) -> list[dict[str, Any]]:
    """Return the rows as plain JSON objects."""
    names = ("step", "left", "dropped", "paper_left", "paper_dropped", "state")
    return [{name: getattr(row, name) for name in names} for row in rows]
