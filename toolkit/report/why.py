"""Follow one pair through every stage: what was measured, and which step dropped it, and where it is now."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from toolkit.data.pair import owner
from toolkit.data.stage import Kind, Stage
from toolkit.data.visible import visible
from toolkit.errors import WorkError
from toolkit.recipe import BY_NAME
from toolkit.report.reasons import best, reason
from toolkit.run.run import Run
from toolkit.run.tables import Shard, read

_ID = re.compile(r"[0-9a-f]{32}")


def why(run: Run, keys: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the story of each pair whose id or url is one of the keys, in input order (schema in docs/formats.md)."""
    if gone := [s.name for s in run.stages if s.name in run.cleaned and s.name not in ("words", "hosts")]:
        raise WorkError(f"`danqing clean` gave up the tables of {', '.join(gone)}: no pair can be followed any more.")
    ids = pa.array([k for k in keys if _ID.fullmatch(k)], pa.string())
    urls = pa.array([k for k in keys if not _ID.fullmatch(k)], pa.string())
    for number in sorted(run.marks(BY_NAME["source"])):
        head = read(run, BY_NAME["source"], number, ["id", "url"])
        hit = pc.or_(pc.is_in(head["id"], ids), pc.is_in(head["url"], urls))
        rows = np.flatnonzero(hit.to_numpy(zero_copy_only=False))
        if len(rows):
            yield from _stories(run, number, [int(r) for r in rows])


def _stories(run: Run, number: int, rows: list[int]) -> Iterator[dict[str, Any]]:
    tables = _Tables(Shard(run, number))
    for row in rows:
        steps = list(_follow(tables, row))
        last = steps[-1]
        yield {
            "id": steps[0]["columns"]["id"],
            "shard": number,
            "batch": run.batch(number),
            "row": row,
            "dropped": last["dropped"],
            "stages": steps,
        }


class _Tables:
    """The tables of one shard, each read once, with the rows that go on."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self._read: dict[str, tuple[pa.Table, Any] | None] = {}

    def get(self, stage: Stage) -> tuple[pa.Table, Any] | None:
        """Return a stage's table and its living rows, or None where it is not done or stale."""
        if stage.name not in self._read:
            found = self.shard.table(stage)
            self._read[stage.name] = None if found is None else (found, self.shard.living(stage, found))
        return self._read[stage.name]


def _follow(tables: _Tables, row: int) -> Iterator[dict[str, Any]]:
    position = row
    known: dict[str, Any] = {}  # of the pair, from all stages so far
    for stage in tables.shard.run.stages:
        if stage.name == "unique":
            repeated = tables.shard.repeated().filter(pc.equal(tables.shard.repeated()["row"], row)).to_pylist()
            if repeated:
                yield _step(tables, stage, repeated[0], known)
                return
        if stage.kind is Kind.REDUCE:
            continue
        loaded = tables.get(stage)
        if loaded is None:
            return
        found, living = loaded
        step = _step(tables, stage, found.slice(position, 1).to_pylist()[0], known)
        known = step["columns"] | known  # of one name the first counts, as `owner` says
        yield step
        if step["dropped"] is not None:
            return
        at = int(np.searchsorted(living, position))
        if at == len(living) or living[at] != position:
            continue  # the pair is a repetition: the next stage, unique, says so
        position = at


def _step(tables: _Tables, stage: Stage, values: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    dropped = values.pop("dropped", None)
    why = _reason(tables, dropped, values, known) if dropped in stage.steps else None
    return {"stage": stage.name, "dropped": dropped, "why": why, "columns": values}


def _reason(tables: _Tables, step: str, values: dict[str, Any], known: dict[str, Any]) -> str:
    """Return what decided, in words; where the best of a set stays with both values, if it is of the same shard."""
    config = tables.shard.run.config
    said, by = reason(step, values, config), best(step, config)
    if by is None:
        return said
    name, _ = by
    loaded = tables.get(BY_NAME[owner(name)])
    theirs = [] if loaded is None else loaded[0].filter(pc.equal(loaded[0]["id"], values["set"]))[name].to_pylist()
    there = f", {_shown(theirs[0])} there" if theirs else ""
    return f"{said} ({name} {_shown(known.get(name))} here{there})"


def lines(story: dict[str, Any]) -> Iterator[str]:
    """Return a story as plain lines; control characters of hostile texts are shown escaped."""
    end = f"dropped by {story['dropped']}" if story["dropped"] else "not dropped"
    yield f"{story['id']}  shard {story['shard']}, row {story['row']}, batch {story['batch']}: {end}"
    for step in story["stages"]:
        values = ", ".join(f"{k} {_shown(v)}" for k, v in step["columns"].items() if k != "id" and v is not None)
        yield f"  {step['stage']:<7} {_end(step)}: {values}"


def _end(step: dict[str, Any]) -> str:
    why = f" ({visible(step['why'])})" if step["why"] else ""
    return f"DROPPED by {step['dropped']}{why}" if step["dropped"] else "passed"


def _shown(value: Any) -> str:
    if value is None:
        return "not measured"
    if isinstance(value, float):
        return f"{value:.6g}"
    return visible(str(value))
