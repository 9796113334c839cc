"""How near-duplicates were compared, in words: what makes a join fast or slow, and differs between machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from toolkit.data.stage import Kind
from toolkit.data.visible import visible
from toolkit.run.run import Run

FACT = "join"  # of a mark


def joins(run: Run) -> Iterator[dict[str, Any]]:
    """Yield what the ranks of finished units have chosen, each choice of a stage once (schema in docs/formats.md)."""
    for stage in run.stages:
        if stage.kind is Kind.COLLECTIVE:
            units = Counter(told for entry in run.marks(stage).values() for told in entry.mark.facts.get(FACT, ()))
            yield from ({"stage": stage.name, "told": told, "units": units[told]} for told in sorted(units))


def words(item: Mapping[str, Any]) -> str:
    """Say it."""
    units = f" ({item['units']:,} units)" if item["units"] > 1 else ""
    return f"join of {item['stage']}: {visible(item['told'])}{units}"
