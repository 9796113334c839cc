"""How far a run is, from marks alone: fast for a hundred thousand shards, and true whatever a scheduler says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from toolkit.data.stage import Stage, stem
from toolkit.data.visible import visible
from toolkit.report import cluster
from toolkit.report import joins as ways
from toolkit.report.logs import command, log_of, tail
from toolkit.report.recall import recall, words
from toolkit.run.failures import Failure, failures
from toolkit.run.funnel import funnel, tree
from toolkit.run.run import Run

# Damages named in the tree; all are counted, and every mark names its own.
NAMED = 20
# Failures whose job's log is opened, and lines that are read of each; `danqing logs` shows more.
OPENED, LINES = 5, 5


def status(run: Run) -> dict[str, Any]:
    """Return the state of a run as plain JSON (schema in docs/formats.md)."""
    failed = {stage.name: list(failures(run, stage)) for stage in run.stages}
    stages = [_stage(run, stage, failed[stage.name]) for stage in run.stages]
    return {
        "run_dir": str(run.layout.root),
        "digest": run.digest,
        "shards": run.shards,
        "batches": run.config.batches,
        "complete": all(s["done"] == s["units"] for s in stages),
        "stages": stages,
        "funnel": tree(funnel(run)),
        "recall": list(recall(run)),
        "joins": list(ways.joins(run)),
        "damages": sum(s["damages"] for s in stages),
        "damage": list(islice(_damage(run), NAMED)),
        "failed": [*_failed(run, failed)],
        "cluster": cluster.look(run, failed) if run.config.executor.kind == "slurm" else None,
    }


def _stage(run: Run, stage: Stage, failed: Sequence[Failure]) -> dict[str, Any]:
    marks = run.marks(stage)
    return {
        "stage": stage.name,
        "units": run.all_units(stage),
        "done": len(marks),
        "stale": len(run.ledger.entries(stage)) - len(marks),
        "failed": len(failed),
        "aside": sum(f.attempts > run.config.executor.retries for f in failed),
        "rows_in": marks.sum("rows_in"),
        "rows_out": marks.sum("rows_out"),
        "bytes": marks.sum("bytes"),
        "seconds": round(float(marks.columns["seconds"].sum()), 1),
        "damages": marks.sum("damages"),
    }


def _damage(run: Run) -> Iterator[dict[str, Any]]:
    for stage in run.stages:
        marks = run.marks(stage)
        for unit, entry in marks.only(marks.columns["damages"] > 0).items():
            for where, what in entry.mark.damage:
                yield {"stage": stage.name, "unit": unit, "where": where, "what": what}


def _failed(run: Run, failed: cluster.Failed) -> Iterator[dict[str, Any]]:
    """Yield the units whose last attempt failed and that are not done since; with the log's end for the first."""
    shown = 0
    for stage in run.stages:
        for f in failed[stage.name]:
            path = log_of(run, stage, f.job) if shown < OPENED else None
            shown += path is not None
            yield {
                "stage": stage.name,
                "unit": f.unit,
                "reason": f.reason,
                "attempts": f.attempts,
                "aside": f.attempts > run.config.executor.retries,
                "time": f.time,
                "job": f.job,
                "log": str(run.layout.failure(stage, f.unit)),
                "tail": tail(path, LINES) if path else [],
            }


def lines(state: dict[str, Any]) -> Iterator[str]:
    """Return the state as plain lines for a log."""
    yield f"{state['run_dir']}  digest {state['digest']}  {state['shards']} shards, {state['batches']} batches"
    yield f"{'stage':<8} {'done':>13} {'rows in':>13} {'rows out':>13} {'GB':>9} {'core-s':>9}  state"
    jobs = {s["stage"]: s for s in state["cluster"]["stages"]} if state["cluster"] else {}
    for s in state["stages"]:
        done = f"{s['done']:,}/{s['units']:,}"
        yield (
            f"{s['stage']:<8} {done:>13} {s['rows_in']:>13,} {s['rows_out']:>13,} "
            f"{s['bytes'] / 1e9:>9.3f} {s['seconds']:>9.1f}  {', '.join(_notes(s, jobs.get(s['stage'])))}"
        )
    yield from map(words, state["recall"])
    yield from ways.words(state["joins"])
    for item in state["failed"]:
        yield from _failure(item)
    for item in state["damage"]:
        yield f"damage: {item['stage']} {stem(item['unit'])}: {visible(item['where'])}: {visible(item['what'])}"
    if state["damages"] > len(state["damage"]):
        yield f"damage: {state['damages'] - len(state['damage'])} more, named in the marks"
    if state["failed"]:
        yield f"More: {command('logs', state['run_dir'], 'STAGE', 'UNIT')}"
    if state["cluster"]:
        yield from cluster.lines(state["run_dir"], state["cluster"])


def _notes(stage: dict[str, Any], jobs: dict[str, Any] | None) -> list[str]:
    """Return the state of a stage in words, and what else is to be said of it."""
    counts = {"stale": stage["stale"], "damages": stage["damages"]}
    if jobs is None:
        counts |= {"failed": stage["failed"] - stage["aside"], "set aside": stage["aside"]}
    said = [f"{counts[name]:,} {name}" for name in ("stale", "failed", "set aside", "damages") if counts.get(name)]
    if stage["done"] == stage["units"]:
        return ["done", *said]
    if jobs is not None and jobs["pending"] < stage["units"]:
        return [*cluster.notes(jobs), *said]
    return ["partly done" if stage["done"] else "pending", *said]


def _failure(item: dict[str, Any]) -> Iterator[str]:
    what = "set aside" if item["aside"] else "failed"
    job = f", job {visible(item['job'])}" if item["job"] else ""
    name = f"{item['stage']} {stem(item['unit'])}"
    yield f"{what}: {name}: {visible(item['reason'])} (attempt {item['attempts']}{job}; see {item['log']})"
    for line in item["tail"]:
        yield f"  | {line}"
