"""How far a run is, from marks alone: fast for ten thousand shards, and true whatever a scheduler says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from toolkit.data.stage import Stage, stem
from toolkit.run.funnel import funnel, tree
from toolkit.run.run import Run

# Damages named in the tree; all are counted, and every mark names its own.
NAMED = 20


def status(run: Run) -> dict[str, Any]:
    """Return the state of a run as plain JSON (schema in docs/formats.md)."""
    stages = [_stage(run, stage) for stage in run.stages]
    return {
        "run_dir": str(run.layout.root),
        "digest": run.digest,
        "shards": run.shards,
        "batches": run.config.batches,
        "complete": all(s["done"] == s["units"] for s in stages),
        "stages": stages,
        "funnel": tree(funnel(run)),
        "damages": sum(s["damages"] for s in stages),
        "damage": list(_damage(run))[:NAMED],
        "failed": [f for stage in run.stages for f in _failed(run, stage)],
    }


def _stage(run: Run, stage: Stage) -> dict[str, Any]:
    marks = [entry.mark for entry in run.marks(stage).values()]
    return {
        "stage": stage.name,
        "units": run.all_units(stage),
        "done": len(marks),
        "stale": len(run.ledger.entries(stage)) - len(marks),
        "failed": sum(1 for _ in _failed(run, stage)),
        "rows_in": sum(m.rows_in for m in marks),
        "rows_out": sum(m.rows_out for m in marks),
        "bytes": sum(o.bytes for m in marks for o in m.outputs),
        "seconds": round(sum(float(m.facts.get("seconds", 0)) for m in marks), 1),
        "damages": sum(m.damages for m in marks),
    }


def _damage(run: Run) -> Iterator[dict[str, Any]]:
    for stage in run.stages:
        for unit, entry in run.marks(stage).items():
            for where, what in entry.mark.damage:
                yield {"stage": stage.name, "unit": unit, "where": where, "what": what}


def _failed(run: Run, stage: Stage) -> Iterator[dict[str, Any]]:
    """Yield the units whose last attempt failed and that are not done since."""
    for path in sorted(run.layout.logs(stage).glob("*.failed.json")):
        unit = int(path.name.partition(".")[0])
        if run.valid(stage, unit) is None:
            record = json.loads(path.read_text())
            yield {"stage": stage.name, "unit": unit, "reason": record["reason"], "log": str(path)}


def lines(state: dict[str, Any]) -> Iterator[str]:
    """Return the state as plain lines for a log."""
    yield f"{state['run_dir']}  digest {state['digest']}  {state['shards']} shards, {state['batches']} batches"
    yield f"{'stage':<8} {'done':>13} {'rows in':>13} {'rows out':>13} {'GB':>9} {'core-s':>9}  state"
    for s in state["stages"]:
        notes = [f"{s[key]} {key}" for key in ("stale", "failed", "damages") if s[key]]
        what = "done" if s["done"] == s["units"] else "pending" if not s["done"] else "partly done"
        done = f"{s['done']:,}/{s['units']:,}"
        yield (
            f"{s['stage']:<8} {done:>13} {s['rows_in']:>13,} {s['rows_out']:>13,} "
            f"{s['bytes'] / 1e9:>9.3f} {s['seconds']:>9.1f}  {', '.join([what, *notes])}"
        )
    for item in state["failed"]:
        yield f"failed: {item['stage']} {stem(item['unit'])}: {item['reason']} (trace: {item['log']})"
    for item in state["damage"]:
        yield f"damage: {item['stage']} {stem(item['unit'])}: {item['where']}: {item['what']}"
    if state["damages"] > len(state["damage"]):
        yield f"damage: {state['damages'] - len(state['damage'])} more, named in the marks"
