"""What each step dropped and what was kept: a few pairs of a run, with what was measured and a small picture.

Promises: the same run gives the same samples, whatever else happens on the machine; at most SHARDS tables are searched
for a sample, one in memory at a time; images are decoded in a guarded child process; a file of the run that is
damaged or gone costs its samples alone, and is named.

A sample is the smallest ids (which are random numbers) of the first shards that hold enough of them.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import nsmallest
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from toolkit.data import table
from toolkit.data.stage import Kind, Stage
from toolkit.data.tar import member
from toolkit.image.fault import Fault
from toolkit.image.guard import Guard
from toolkit.image.stage import guard
from toolkit.recipe import BY_NAME
from toolkit.report.reasons import measure, reason
from toolkit.run.layout import relative
from toolkit.run.run import Run

DROPPED, KEPT = 12, 24  # pairs in a sample of what a step dropped, and of what was kept
SHARDS = 20  # tables searched for one sample, at most

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One pair of a sample; texts are the crawl's own words and hostile."""

    id: str
    shard: int
    url: str = ""
    text: str = ""
    caption: str = ""  # the refined text; empty where there is none or where it is the text
    why: str = ""  # the measured value that decided and its threshold; empty for what was kept
    picture: str | None = None  # base64 of a small JPEG
    fault: str | None = None  # why there is no picture of an image that was fetched
    survivor: Pair | None = None  # who stays of its set of near-duplicates
    lost: str | None = None  # id of a survivor that was not found in the tables searched


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Some of the pairs that a step dropped (or that are left, with an empty `step`)."""

    stage: str
    step: str
    measure: str
    total: int
    pairs: Sequence[Pair]


@dataclass
class Samples:
    """The samples of one run; `faults` names the files that could not be read."""

    run: Run
    faults: list[str] = field(default_factory=list)

    def dropped(self) -> Iterator[Sample]:
        """Yield a sample for each step that dropped something, in recipe order."""
        for stage in self.run.stages:
            for step in stage.steps:
                total = sum(e.mark.drops.get(step, 0) for e in self.run.ledger.entries(stage).values())
                if total:
                    yield self._of_step(stage, step, total)

    def kept(self) -> Sample | None:
        """Return a sample of what is left after the furthest stage that has begun; None where none has."""
        for stage in reversed([s for s in self.run.stages if s.kind is not Kind.REDUCE]):
            entries = self.run.ledger.entries(stage)
            if entries:
                total = sum(e.mark.rows_out for e in entries.values())
                found = self._first(stage, None, self._tables(stage, None), KEPT)
                return Sample(stage=stage.name, step="", measure="", total=total, pairs=self._shown(found))
        return None

    def _of_step(self, stage: Stage, step: str, total: int) -> Sample:
        rows = self._first(stage, step, self._tables(stage, step), DROPPED)
        words = [reason(step, row, self.run.config) for _, row in rows]
        pairs = [replace(pair, why=why) for pair, why in zip(self._shown(rows), words, strict=True)]
        if rows and "set" in rows[0][1]:
            pairs = self._beside(stage, rows, pairs)
        return Sample(stage=stage.name, step=step, measure=measure(stage.name, step), total=total, pairs=pairs)

    # Which pairs

    def _tables(self, stage: Stage, step: str | None) -> Iterator[int]:
        """Yield the numbers of the tables that may hold what is looked for, by what the marks say."""
        for unit, entry in sorted(self.run.ledger.entries(stage).items()):
            if entry.mark.drops.get(step) if step else entry.mark.rows_out:
                yield from self.run.shards_of(stage, unit) if stage.kind is Kind.COLLECTIVE else [unit]

    def _first(self, stage: Stage, step: str | None, tables: Iterable[int], count: int) -> list[tuple[int, Row]]:
        """Return (shard, row of the stage's table) of some pairs that `step` dropped, or that are alive."""
        found: list[tuple[int, Row]] = []
        for number in islice(tables, SHARDS):
            ids = self._smallest(stage, step, number, count)
            rows = self._find(stage, number, ids)
            found += [(rows[i].get("shard", number), rows[i]) for i in ids if i in rows]
            if len(found) >= count:
                break
        return nsmallest(count, found, key=lambda item: (item[1]["id"], item[0]))

    def _smallest(self, stage: Stage, step: str | None, number: int, count: int) -> list[str]:
        """Return the ids to show of one table; of near-duplicates first those whose survivor is in the same table."""
        names = [n for n in ("id", "dropped", "set") if n in pair_names(stage)]
        rows = self._read(stage, number, names)
        if rows is None:
            return []
        if "dropped" in names:
            rows = rows.filter(pc.equal(rows["dropped"], step) if step else pc.is_null(rows["dropped"]))
        ids = nsmallest(count, rows["id"].to_pylist())
        return list(dict.fromkeys(ids))

    # Their columns and pictures

    def _shown(self, rows: Sequence[tuple[int, Row]]) -> list[Pair]:
        """Return the pairs with texts and pictures, in the order of the rows."""
        wanted: dict[int, list[str]] = {}
        for shard, row in rows:
            wanted.setdefault(shard, []).append(row["id"])
        pairs = {(shard, pair.id): pair for shard, ids in wanted.items() for pair in self._pairs(shard, ids)}
        return [pairs[shard, row["id"]] for shard, row in rows]
