"""How near-duplicates were compared, in words: what makes a join fast or slow, and differs between machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any

from toolkit.data.stage import Kind
from toolkit.data.visible import visible
from toolkit.run.run import Run

FACT = "join"  # of a mark
SHOWN = 3  # of a stage; a join of many units on many machines has dozens


def joins(run: Run) -> Iterator[dict[str, Any]]:
    """Yield what the ranks of finished units have chosen, each choice of a stage once (schema in docs/formats.md).

    The choice of the most units comes first.
    """
    for stage in run.stages:
        if stage.kind is Kind.COLLECTIVE:
            units = Counter(told for entry in run.marks(stage).values() for told in entry.mark.facts.get(FACT, ()))
            often = sorted(units, key=lambda told: (-units[told], told))
            yield from ({"stage": stage.name, "told": told, "units": units[told]} for told in often)


def words(items: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Say the first ones of each stage, and how many others there are."""
    for stage, group in groupby(items, key=itemgetter("stage")):
        ways = list(group)
        yield from map(_said, ways[:SHOWN])
        if (others := len(ways) - SHOWN) > 0:
            yield f"join of {stage}: and {others:,} other way{'s' if others > 1 else ''}"


def _said(item: Mapping[str, Any]) -> str:
    units = f" ({item['units']:,} units)" if item["units"] > 1 else ""
    return f"join of {item['stage']}: {visible(item['told'])}{units}"
