"""The funnel: how many pairs each step of the recipe left, beside the paper's counts."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any, Literal

from toolkit.data.stage import FunnelRow
from toolkit.recipe import ABSENT, PAPER, REWRITES, STAGES, not_run
from toolkit.run.run import Run

State = Literal["run", "not run", "rewrite"]

# Where a step without code stands: after this one (paper, Table 6).
_ABSENT_AFTER = {"dedup.batch": "safety.image"}


def steps() -> list[str]:
    """Return every step in recipe order."""
    order: list[str] = []
    for stage in STAGES:
        for step in stage.steps:
            order.append(step)
            if step in _ABSENT_AFTER:
                order.append(_ABSENT_AFTER[step])
    return order


def funnel(run: Run) -> list[FunnelRow]:
    """Return one row per step; `left` and `dropped` are None for steps that no shard has reached."""
    drops: Counter[str] = Counter()
    rewrites: Counter[str] = Counter()
    reached: set[str] = set()
    raw = 0
    for stage in run.stages:
        entries = run.ledger.entries(stage)
        if entries:
            reached.update(stage.steps)
        for entry in entries.values():
            drops.update(entry.mark.drops)
            rewrites.update(entry.mark.counts)
            raw += entry.mark.rows_in if stage.name == "source" else 0
    return _rows(raw, drops, rewrites, reached, not_run(run.config))


def _rows(
    raw: int, drops: Counter[str], rewrites: Counter[str], reached: set[str], off: frozenset[str]
) -> list[FunnelRow]:
    rows = [_row("raw", raw if reached else None, None, "run")]
    left = raw
    for step in steps():
        if step in off or step in ABSENT:
            rows.append(_row(step, None, None, "not run"))
        elif step not in reached:
            rows.append(_row(step, None, None, "run"))
        elif step in REWRITES:
            rows.append(_row(step, left, rewrites[step], "rewrite"))
        else:
            left -= drops[step]
            rows.append(_row(step, left, drops[step], "run"))
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
