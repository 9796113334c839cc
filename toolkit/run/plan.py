"""What a run would do: its stages, units, bytes and hours, estimated before anything starts.

Rates are measured on this toolkit (docs/benchmarks.md), shares of rows left are the paper's; both are named in the
output, because a plan that hides its assumptions is a promise that nobody made.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from toolkit.data.stage import Kind, Stage
from toolkit.dedup.join import flops
from toolkit.embed.encoder import load
from toolkit.run.earlier import pieces
from toolkit.run.executors import processors
from toolkit.run.run import Run

# Kept raw pairs in a byte of compressed WAT and WARC: cc2dataset's 60k pairs a WAT of 357 MiB, and the same pages'
# WARC of 999 MiB (docs/benchmarks.md); a table has about 150 bytes a row.
PAIRS_PER_BYTE = {"wat": 60_000 / 374e6, "warc": 60_000 / 1048e6, "table": 1 / 150}
# Rows a second of one core, and bytes a row written. Joins grow with the square of their rows: JOIN_RATE.
RATES = {
    "source": (20_000, 120),
    "unique": (1_000_000, 8),
    "words": (60_000, 0),
    "text": (6_000, 90),
    "hosts": (20_000, 2),
    "fetch": (100, 96_000),
    "image": (400, 60),
    "embed": (300, 3_500),
    "dedup": (None, 40),
    "align": (50_000, 24),
    "merge": (None, 40),
    "export": (2_000, 96_000),
}
# Floating point operations a second of one core in the exact join, n^2 d in all: whole rows in bfloat16 with AVX-512
# (docs/benchmarks.md). Short shadows make it two to four times as fast where rows have enough in common, AMX some five
# times; without torch it is 75e9.
JOIN_RATE = 190e9
# Share of a stage's input rows that it leaves (paper, Table 6; unique has no row there).
LEFT = {"source": 0.674, "text": 0.836, "fetch": 0.673, "image": 0.797, "dedup": 0.588, "align": 0.864, "merge": 0.647}


@dataclass(frozen=True, kw_only=True, slots=True)
class StagePlan:
    """One stage of the plan; rows and hours are estimates, units and done are facts."""

    stage: str
    """Name of the stage."""
    kind: str
    """map, reduce or collective."""
    units: int
    """Units of the stage."""
    done: int
    """Units with a valid mark."""
    rows: int
    """Rows that it reads."""
    gigabytes: float
    """10^9 bytes that it writes."""
    core_hours: float
    """Hours of one core for the units that are not done."""


def plan(run: Run) -> list[StagePlan]:
    """Return the plan of a run, stage by stage."""
    rows = sum(f.bytes for f in run.inputs) * PAIRS_PER_BYTE[run.config.input.kind]
    table = []
    for stage in run.stages:
        known = _known_rows(run, stage)
        rows = known if known is not None else rows
        table.append(_row(run, stage, math.ceil(rows)))
        rows *= LEFT.get(stage.name, 1.0)
    return table


def _known_rows(run: Run, stage: Stage) -> float | None:
    entries = run.marks(stage)
    if stage.kind is Kind.REDUCE or not run.complete(stage):
        return None
    return float(entries.sum("rows_in"))


def _row(run: Run, stage: Stage, rows: int) -> StagePlan:
    rate, size = RATES[stage.name]
    seconds = _join_seconds(run, stage, rows) if rate is None else rows / rate
    units, done = run.all_units(stage), len(run.marks(stage))
    return StagePlan(
        stage=stage.name,
        kind=stage.kind.value,
        units=units,
        done=done,
        rows=rows,
        gigabytes=round(rows * size / 1e9, 3),
        core_hours=round(seconds / 3600 * (units - done) / max(units, 1), 3),
    )


def _join_seconds(run: Run, stage: Stage, rows: int) -> float:
    """Return the seconds of one core for joining all rows, inside batches of equal size, or with earlier ones too."""
    if run.config.dedup.scope == {"dedup": "global", "merge": "batch"}[stage.name]:
        return 0.0
    batches = run.units(stage)
    joined = stage.name == "merge" and not run.complete(stage)  # else the earlier runs may be gone
    earlier = sum(piece.rows for source in run.earlier for piece in pieces(source)) if joined else 0
    return batches * flops(rows // batches, load(run.config.embed).dim, earlier) / JOIN_RATE


def tree(run: Run, rows: list[StagePlan], cluster: Any = None) -> dict[str, Any]:
    """Return the plan as plain JSON (schema in docs/formats.md), under slurm with its forecast of the cluster."""
    workers = run.config.executor.workers or processors()
    core_hours = sum(row.core_hours for row in rows)
    hours = core_hours / (workers if run.config.executor.kind == "local" else 1)
    return {
        "run_dir": str(run.layout.root),
        "digest": run.digest,
        "input_files": len(run.inputs),
        "input_bytes": sum(f.bytes for f in run.inputs),
        "shards": run.shards,
        "batches": run.config.batches,
        "executor": run.config.executor.kind,
        "workers": workers if run.config.executor.kind == "local" else 1,
        "stages": [asdict(row) for row in rows],
        "gigabytes": round(sum(row.gigabytes for row in rows), 3),
        "core_hours": round(core_hours, 3),
        "hours": round(hours, 3) if cluster is None else cluster.hours,
        "cluster": None if cluster is None else asdict(cluster),
    }
