"""What each step dropped and what was kept: a few pairs of a run, with what was measured and a small picture.

Promises: the same run gives the same samples; at most SHARDS tables are searched for a sample, one in memory at a
time; images are decoded in a guarded child process; a file of the run that is damaged or gone costs its own samples,
and is named.

A sample is the smallest ids, which are as good as drawn by lot, of the first tables that hold enough of them.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from heapq import nsmallest
from itertools import islice
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc

from toolkit.data import pair, table
from toolkit.data.stage import Kind, Stage
from toolkit.data.tar import member
from toolkit.guard import Fault, Guard
from toolkit.image.fault import FAULTS
from toolkit.image.stage import guard
from toolkit.recipe import BY_NAME
from toolkit.report.reasons import measure, reason
from toolkit.run.layout import relative
from toolkit.run.run import Run

DROPPED, KEPT = 12, 24  # pairs in a sample of what a step dropped, and of what was kept
SHARDS = 20  # tables searched for one sample, at most

Row = dict[str, Any]
Found = list[tuple[int, Row]]  # shards of pairs, with their rows in the table of the stage that is looked at


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One pair of a sample; url, text and caption are the crawl's own words and hostile."""

    id: str
    shard: int
    url: str
    text: str
    caption: str | None = None  # the refined text
    why: str = ""  # the measured value that decided, and its threshold; empty for what was kept
    picture: str | None = None  # a small JPEG in base64
    fault: str | None = None  # why an image that was fetched has no picture
    survivor: Pair | None = None  # who stays of its set of near-duplicates
    away: str | None = None  # id of a survivor that is not in the tables searched


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Some of the `total` pairs that a step dropped, or that are left after a stage (`step` is empty)."""

    stage: str
    step: str
    measure: str  # the column that decided and its meaning
    total: int
    pairs: Sequence[Pair]


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """All samples of a run, and the files that could not be read for them."""

    dropped: Sequence[Sample]
    kept: Sample | None
    faults: Sequence[str]


def samples(run: Run) -> Samples:
    """Return a sample for each step that dropped something, and one of what the furthest stage so far has left."""
    with guard(run.config.image, "toolkit.report.thumbnail:thumbnail") as child:
        reader = _Reader(run, child)
        dropped = [
            reader.dropped(stage, step) for stage in run.stages for step in stage.steps if drops(run, stage, step)
        ]
        return Samples(dropped=dropped, kept=reader.kept(), faults=list(reader.faults))


def drops(run: Run, stage: Stage, step: str) -> int:
    """Return how many pairs a step of the stage dropped so far."""
    return run.marks(stage).sum(f"drops.{step}")


@dataclass
class _Reader:
    """Reads the tables and images of one run."""

    run: Run
    child: Guard
    faults: dict[str, None] = field(default_factory=dict)

    def dropped(self, stage: Stage, step: str) -> Sample:
        found = self._first(stage, step, DROPPED)
        pairs = [
            replace(one, why=reason(step, row, self.run.config))
            for one, (_, row) in zip(self._pairs(stage, found), found, strict=True)
        ]
        if stage.kind is Kind.COLLECTIVE and step != "merge.earlier":  # there another run has the survivor
            pairs = self._beside(stage, step, found, pairs)
        total = drops(self.run, stage, step)
        return Sample(stage=stage.folder, step=step, measure=measure(stage.name, step), total=total, pairs=pairs)

    def kept(self) -> Sample | None:
        for stage in reversed([s for s in self.run.stages if s.kind is not Kind.REDUCE]):
            entries = self.run.marks(stage)
            if entries:
                pairs = self._pairs(stage, self._first(stage, None, KEPT))
                total = entries.sum("rows_out")
                return Sample(stage=stage.folder, step="", measure="", total=total, pairs=pairs)
        return None

    # Which pairs

    def _first(self, stage: Stage, step: str | None, count: int) -> Found:
        """Return some pairs that the step dropped, or (None) that the stage left."""
        found: Found = []
        for number in islice(self._tables(stage, step), SHARDS):
            ids = self._smallest(stage, step, number, count)
            rows = {row["id"]: row for row in self._find(stage, number, ids) if row.get("dropped") == step}
            found += [(rows[i].get("shard", number), rows[i]) for i in ids if i in rows]
            if len(found) >= count:
                break
        return found[:count]

    def _tables(self, stage: Stage, step: str | None) -> Iterator[int]:
        """Yield the numbers of the tables that may hold what is looked for, as the marks say."""
        marks = self.run.marks(stage)
        for unit in marks.only(marks.columns[f"drops.{step}" if step else "rows_out"] > 0):
            yield from self.run.shards_of(stage, unit) if stage.kind is Kind.COLLECTIVE else [unit]

    def _smallest(self, stage: Stage, step: str | None, number: int, count: int) -> list[str]:
        """Return ids to show of one table; of near-duplicates, those whose survivor is in it too come first."""
        names = [name for name in ("id", "set", "dropped") if name in pair.schema(stage.name).names]
        rows = self._read(stage, number, lambda file: table.read(file, names))
        if "dropped" in names:
            chosen = rows.filter(pc.equal(rows["dropped"], step) if step else pc.is_null(rows["dropped"]))
        else:
            chosen = rows
        known = pc.is_in(chosen["set" if "set" in names else "id"], value_set=rows["id"]).to_pylist()
        ranked = nsmallest(count, {(not near, one) for near, one in zip(known, chosen["id"].to_pylist(), strict=True)})
        return [one for _, one in ranked]

    # What is known of them

    def _pairs(self, stage: Stage, found: Found) -> list[Pair]:
        """Return the pairs in the order given, with their texts and, where images were fetched by then, pictures."""
        wanted: dict[int, list[str]] = {}
        for shard, row in found:
            wanted.setdefault(shard, []).append(row["id"])
        known = {(shard, one.id): one for shard, ids in wanted.items() for one in self._known(stage, shard, ids)}
        nothing = Pair(id="", shard=0, url="", text="")
        return [known.get((shard, row["id"]), replace(nothing, id=row["id"], shard=shard)) for shard, row in found]

    def _known(self, stage: Stage, shard: int, ids: list[str]) -> Iterator[Pair]:
        reached = [s for s in (BY_NAME[name] for name in ("source", "text", "fetch")) if s.number <= stage.number]
        rows: dict[str, dict[str, Row]] = {s.name: {r["id"]: r for r in self._find(s, shard, ids)} for s in reached}
        captions = {name: row["caption"] for name, row in rows.get("text", {}).items()}
        pictures = self._pictures(shard, rows.get("fetch", {}).values())
        for name, row in rows["source"].items():
            one = Pair(id=name, shard=shard, url=row["url"], text=row["text"], caption=captions.get(name))
            picture, fault = pictures.get(name, (None, None))
            yield replace(one, picture=picture, fault=fault)

    def _pictures(self, shard: int, rows: Iterable[Row]) -> dict[str, tuple[str | None, str | None]]:
        """Return (picture, fault) of each id whose image was fetched."""
        there = [row for row in rows if row["offset"] is not None]
        if not there:
            return {}
        path = self.run.layout.file(BY_NAME["fetch"], relative(shard, ".tar"))
        try:
            with path.open("rb") as tar:
                answers = list(self.child.map(_image(tar, row) for row in there))
        except OSError:
            self._blame(BY_NAME["fetch"], relative(shard, ".tar"))
            answers = [Fault("missing") for _ in there]
        return {row["id"]: _shown(answer) for row, answer in zip(there, answers, strict=True)}

    def _beside(self, stage: Stage, step: str, found: Found, pairs: list[Pair]) -> list[Pair]:
        """Return the pairs, each with the survivor of its set."""
        missing = {row["set"] for _, row in found}
        homes: Found = []
        for number in islice(dict.fromkeys([*(s for s, _ in found), *self._tables(stage, step)]), SHARDS):
            here = [row for row in self._find(stage, number, sorted(missing)) if row["dropped"] is None]
            homes += [(number, row) for row in here]
            missing -= {row["id"] for row in here}
            if not missing:
                break
        survivors = {one.id: one for one in self._pairs(stage, homes)}
        return [
            replace(one, survivor=survivors.get(row["set"]), away=None if row["set"] in survivors else row["set"])
            for one, (_, row) in zip(pairs, found, strict=True)
        ]

    # Files

    def _find(self, stage: Stage, number: int, ids: Sequence[str]) -> list[Row]:
        """Return the rows of these ids."""
        rows: list[Row] = self._read(
            stage, number, lambda f: table.find(f, "id", pa.array(ids, pa.string()))
        ).to_pylist()
        return rows

    def _read(self, stage: Stage, number: int, read: Callable[[IO[bytes]], pa.Table]) -> pa.Table:
        """Read of a stage's table what `read` takes; nothing where it is damaged or gone."""
        name = relative(number, ".parquet")
        try:
            with self.run.layout.file(stage, name).open("rb") as file:
                return read(file)
        except (OSError, pa.ArrowException):
            self._blame(stage, name)
            return pair.schema(stage.name).empty_table()

    def _blame(self, stage: Stage, name: str) -> None:
        if stage.name not in self.run.cleaned:
            self.faults[f"{stage.folder}/data/{name}"] = None


def _image(tar: IO[bytes], row: Row) -> bytes | Fault:
    try:
        return member(tar, row["offset"], row["bytes"])
    except EOFError:
        return Fault("missing")


def _shown(answer: bytes | Fault) -> tuple[str | None, str | None]:
    return (None, FAULTS[answer.word]) if isinstance(answer, Fault) else (base64.b64encode(answer).decode(), None)
