"""What a run would ask of a cluster: its jobs, tasks and longest chain, packed as they will be when it is submitted.

Seconds of a unit are measured where some units of the stage are done, and the plan's estimates elsewhere. What waiting
in the queue takes nobody knows, and it is in no number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from toolkit.data.stage import Kind, Stage
from toolkit.errors import UserError, WorkError
from toolkit.run import scheduler
from toolkit.run.failures import aside
from toolkit.run.jobs import world
from toolkit.run.packing import Pack, pack, room, unit_seconds
from toolkit.run.plan import StagePlan
from toolkit.run.records import check
from toolkit.run.run import Run
from toolkit.run.scheduler import Limits

# What is assumed where no Slurm can be asked: its own defaults (slurm.conf(5)).
ASSUMED = Limits(array=1001, jobs=10_000, submit=None, minutes={}, partition=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class StageJobs:
    """What one stage asks of the cluster for the units that are not done."""

    stage: str
    """Name of the stage."""
    jobs: int
    """Calls of sbatch: its arrays and jobs, and the small ones behind them that go on with the run."""
    tasks: int
    """Array elements, and jobs that are no array."""
    shards_per_task: int
    """Most units that one task works through."""
    cores: int
    """Processors of one task, those of all its ranks."""
    minutes: int | None
    """Time limit of a task; null where neither the site's options nor its partition say one."""
    task_hours: float
    """Hours of the longest task, estimated; a task that would reach its time limit goes on in another one."""
    hours: float
    """Hours of the stage where as many tasks run at once as `throttle` lets, estimated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What a run asks of the cluster."""

    limits_read: bool
    """Whether the limits are those of this cluster; else Slurm's defaults are assumed, since it could not be asked."""
    max_array: int
    """Most elements of one array (MaxArraySize)."""
    max_tasks: int
    """Most tasks of this user that are queued at one time."""
    stages: list[StageJobs]
    """One entry a stage, in order."""
    jobs: int
    """Calls of sbatch in all."""
    tasks: int
    """Tasks in all."""
    hours: float
    """The longest chain: hours from the first task to the last where none waits for room on the cluster."""


def forecast(run: Run, rows: Sequence[StagePlan]) -> Forecast:
    """Return what a run would ask of the cluster, of a plan of it; raises UserError where no job could run it."""
    check(run)
    try:
        limits, known = scheduler.limits(), True
    except (UserError, WorkError):
        limits, known = ASSUMED, False
    planned = {row.stage: row for row in rows}
    stages = [_stage(run, stage, limits, planned) for stage in run.stages]
    return Forecast(
        limits_read=known,
        max_array=limits.array,
        max_tasks=room(limits, 0),
        stages=stages,
        jobs=sum(s.jobs for s in stages),
        tasks=sum(s.tasks for s in stages),
        hours=round(sum(s.hours for s in stages), 3),
    )


def _stage(run: Run, stage: Stage, limits: Limits, planned: Mapping[str, StagePlan]) -> StageJobs:
    site = run.config.executor.site
    wants, seconds = site.of(stage.name), _seconds(run, stage, planned[stage.name])
    cores = (wants.cpus or 1) * world(stage.name, wants)
    rounds = list(_rounds(run, stage, limits, seconds))
    packs = [array for arrays in rounds for array in arrays]
    longest = [max(_hours(stage, array, cores, seconds) for array in arrays) for arrays in rounds]
    turns = [max(math.ceil(a.tasks / (wants.throttle or a.tasks)) for a in arrays) for arrays in rounds]
    return StageJobs(
        stage=stage.name,
        jobs=len(packs) + (len(rounds) if site.advance else 0),
        tasks=sum(array.tasks for array in packs),
        shards_per_task=max((_most(array) for array in packs), default=0),
        cores=cores,
        minutes=wants.minutes or limits.minutes.get(wants.partition or limits.partition or ""),
        task_hours=round(max(longest, default=0.0), 3),
        hours=round(sum(hours * turn for hours, turn in zip(longest, turns, strict=True)), 3),
    )


def _seconds(run: Run, stage: Stage, planned: StagePlan) -> float:
    """Return the seconds of one core that a unit of a stage takes."""
    if len(run.marks(stage)):
        return unit_seconds(run, stage)
    return planned.core_hours * 3600 / max(1, run.units(stage))


def _rounds(run: Run, stage: Stage, limits: Limits, seconds: float) -> Iterator[list[Pack]]:
    """Yield what is submitted together, one after another: what there is room for, and the closing unit last."""
    gone, last = aside(run, stage), run.units(stage)
    missing = [u for u in range(run.all_units(stage)) if u not in gone and run.valid(stage, u) is None]
    for left in ([u for u in missing if u < last], [u for u in missing if u == last]):
        units = left
        while arrays := pack(run, stage, units, limits, max(1, room(limits, 0)), seconds=seconds):
            yield arrays
            units = units[sum(len(array.units) for array in arrays) :]


def _most(array: Pack) -> int:
    return math.ceil(len(array.units) / array.tasks)


def _hours(stage: Stage, array: Pack, cores: int, seconds: float) -> float:
    """Return the hours of the longest task: a map stage does `cores` units at once, a collective one shares each."""
    units = _most(array)
    turns = {Kind.MAP: math.ceil(units / cores), Kind.REDUCE: units, Kind.COLLECTIVE: units / cores}
    return turns[stage.kind] * seconds / 3600
