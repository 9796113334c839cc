"""The inside of a job: which units are this task's, how many at once, and what happens when it is told to stop.

A task tries each of its units once; who tries again, and when, is decided between jobs (advance.py). It leaves nothing
but marks, failures and its log, so it may be ended at any instant and started any number of times.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from datetime import datetime

from toolkit.data.stage import Kind, Stage, stem
from toolkit.data.world import ALONE, World
from toolkit.errors import UserError
from toolkit.run import clock, scheduler, signals
from toolkit.run.drive import Display, Driver, Outcome
from toolkit.run.executors import inline, local
from toolkit.run.failures import note
from toolkit.run.records import share
from toolkit.run.run import Run

# Slurm may send the signal of --signal up to a minute early (sbatch(1)).
EARLY_S = 60


def work(run: Run, stage: Stage, units: Sequence[int], display: Display, world: World = ALONE) -> Outcome:
    """Try units of one stage once each, those that are missing and can run."""
    since, begin = clock.now(), clock.ticks()
    cores = int(os.environ.get("SLURM_CPUS_PER_TASK", "1"))
    pooled = stage.kind is Kind.MAP and min(cores, len(units)) > 1
    with local(run, cores) if pooled else inline(run, world) as execute:
        driver = Driver(run, execute, display, retries=0)
        driver.stage(stage, units)
    outcome = driver.outcome
    outcome.stopped = signals.stopping() and bool(outcome.given_up or outcome.done < len(units))
    if _too_slow(run, stage, outcome, since, clock.ticks() - begin):
        outcome.stopped = False  # a failure: who counts them says whether it is tried again, not this task
        for unit in outcome.given_up:
            outcome.aside[stage.name, unit] = note(run, stage, unit, "it takes longer than the time limit of its job")
    return outcome


def _too_slow(run: Run, stage: Stage, outcome: Outcome, since: str, seconds: float) -> bool:
    """Return whether the units at work had all of the job's time and kept nothing: to go on would be for ever.

    Where preemption is announced by SIGUSR2 too, a task that had little of its time is not meant.
    """
    site = run.config.executor.site
    minutes = site.of(stage.name).minutes
    if outcome.done or signals.by() != signal.SIGUSR2 or any(kept(run, stage, u, since) for u in outcome.given_up):
        return False
    return minutes is None or seconds >= (minutes * 60 - site.lead_s - EARLY_S) * 0.8


def kept(run: Run, stage: Stage, unit: int, since: str) -> bool:
    """Return whether a unit's checkpoint has grown since a time of day."""
    begin = datetime.fromisoformat(since).timestamp()
    parts = run.layout.work(stage).glob(f"{stem(unit)}.parts-*/[0-9]*.json")
    return any(part.stat().st_mtime >= begin for part in parts)


def leave(run: Run) -> Iterator[str]:
    """Say why this task was asked to stop, and put it into the queue again where that is its own affair.

    After SIGUSR2, which warns of the time limit, it is. After SIGTERM it is not: who preempts requeues, or lets
    `advance` do so, and who cancels does not want it back.
    """
    name = scheduler.element()
    signum = signals.by()
    if name is None or not signum:
        return
    yield f"task {name} was asked to stop by {signal.Signals(signum).name}; what is finished is kept"
    if signum != signal.SIGUSR2 or run.layout.cancelled.exists():
        return
    if scheduler.requeue(name):
        yield f"task {name} goes into the queue again"
    else:
        yield f"task {name} can not requeue itself from here; what it left is submitted again when its array has ended"


def numbers(text: str, units: int) -> list[int]:
    """Return the units that "0-99,120" names, ascending, or all where it is empty; raises UserError."""
    if not text:
        return list(range(units))
    chosen: set[int] = set()
    for piece in text.split(","):
        low, dash, high = piece.partition("-")
        try:
            first, last = int(low), int(high if dash else low)
        except ValueError as error:
            raise UserError(f"--units {text}: expected numbers and ranges, for instance 0-99,120.") from error
        if not 0 <= first <= last < units:
            raise UserError(f"--units {text}: {piece} is not a range within 0-{units - 1}, the units of this stage.")
        chosen.update(range(first, last + 1))
    return sorted(chosen)


def part(units: Sequence[int], text: str) -> Sequence[int]:
    """Return the units of part "3/10": ten parts in order, of equal size but for one unit; raises UserError."""
    index, slash, count = text.partition("/")
    try:
        i, n = int(index), int(count if slash else "")
    except ValueError as error:
        raise UserError(f"--part {text}: expected a part and how many there are, for instance 0/10.") from error
    if not 0 <= i < n:
        raise UserError(f"--part {text}: parts are counted from 0 to {n - 1}.")
    return share(units, i, n)
