"""How much of the near-duplicates an inexact search found, in words; nothing where every edge was looked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from toolkit.data.stage import Kind
from toolkit.run.run import Run

TALLIES = ("recall.queries", "recall.edges", "recall.found")


def recall(run: Run) -> Iterator[dict[str, Any]]:
    """Yield what each stage has measured over its finished units (schema in docs/formats.md)."""
    for stage in run.stages:
        if stage.kind is Kind.COLLECTIVE:
            told = [entry.mark.tallies for entry in run.marks(stage).values() if TALLIES[0] in entry.mark.tallies]
            if told:
                yield counted(stage.name, {key: sum(tallies[key] for tallies in told) for key in TALLIES})


def counted(stage: str, tallies: Mapping[str, int]) -> dict[str, Any]:
    """Return the measure of one stage from its tallies."""
    queries, edges, found = (tallies[key] for key in TALLIES)
    return {
        "stage": stage,
        "queries": queries,
        "edges": edges,
        "found": found,
        "recall": found / edges if edges else None,
    }


def words(item: Mapping[str, Any]) -> str:
    """Say it."""
    sample = f"{item['queries']:,} sampled images"
    if item["recall"] is None:
        return f"recall of {item['stage']}: not known, since {sample} are near-duplicates of none"
    share = f"{item['recall']:.4f}, measured: of the {item['edges']:,} near-duplicates of {sample}"
    return f"recall of {item['stage']}: {share}, {item['found']:,} are in one set with them"
