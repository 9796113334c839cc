"""How a stage's units are packed into tasks and arrays: pure arithmetic on what was measured and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.data.stage import Kind, Stage
from toolkit.recipe import BY_NAME
from toolkit.run.plan import PAIRS_PER_BYTE, RATES
from toolkit.run.run import Run
from toolkit.run.scheduler import Limits

# Clusters ask for tasks of 10 to 60 minutes, and at most a thousand of them (docs of FineWeb, Uni.lu and SchedMD).
TASK_S = 20 * 60
MOST_TASKS = 1000
# Of a time limit, what may be planned for: the slowest shard is no average one.
USABLE = 0.6


@dataclass(frozen=True, slots=True)
class Pack:
    """Units of one submission, and the tasks that share them."""

    units: Sequence[int]
    tasks: int


def pack(
    run: Run, stage: Stage, units: Sequence[int], limits: Limits, room: int, *, seconds: float | None = None
) -> list[Pack]:
    """Return the arrays for these units that fit into `room` queued tasks; what does not fit comes another time.

    `seconds` are those of one core that a unit takes; None = as far as the run itself tells.
    """
    if not units or room < 1:
        return []
    size = per_task(run, stage, len(units), limits, unit_seconds(run, stage) if seconds is None else seconds)
    tasks = min(math.ceil(len(units) / size), room)
    arrays = []
    for start in range(0, tasks, limits.array):
        count = min(limits.array, tasks - start)
        own = units[start * size : (start + count) * size]
        arrays.append(Pack(own, math.ceil(len(own) / size)))
    return arrays


def per_task(run: Run, stage: Stage, units: int, limits: Limits, unit_s: float) -> int:
    """Return how many units one task works through."""
    wants = run.config.executor.site.of(stage.name)
    if stage.kind is Kind.COLLECTIVE:
        return 1
    if wants.shards_per_task is not None:
        return wants.shards_per_task
    cores = wants.cpus or 1
    allowed = [m for m in (wants.minutes, limits.minutes.get(wants.partition or limits.partition or "")) if m]
    seconds = min([TASK_S, *(m * 60 * USABLE for m in allowed)])
    fitting = max(1, int(seconds * cores / max(unit_s, 1e-3)))
    return min(max(fitting, math.ceil(units / MOST_TASKS)), units)


def unit_seconds(run: Run, stage: Stage) -> float:
    """Return the seconds of one core that a unit takes: measured where some are done, estimated where none is."""
    done = run.marks(stage).columns["seconds"]
    if len(done):
        return float(np.median(done))
    rate, _ = RATES[stage.name]
    chain = run.chain(stage)
    if chain:
        rows = float(run.marks(BY_NAME[chain[0]]).sum("rows_out"))
    else:
        rows = sum(f.bytes for f in run.inputs) * PAIRS_PER_BYTE[run.config.input.kind]
    return rows / run.units(stage) / rate if rate else 0.0


def room(limits: Limits, queued: int) -> int:
    """Return how many tasks may be submitted now; one place is for `advance`, half of the controller for others."""
    most = [limits.jobs // 2] + ([limits.submit] if limits.submit is not None else [])
    return max(0, min(most) - queued - 1)
