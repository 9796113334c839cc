"""What was submitted to a scheduler, as RUN/jobs/ remembers it; read without the packages that submit.

A record only explains (which job had which units, where its log lies); what is done the ledger knows, and what still
moves the scheduler is asked for, by the names of the run's jobs.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import msgspec

from toolkit.data.stage import Stage
from toolkit.errors import UserError
from toolkit.recipe import BY_NAME
from toolkit.run import files
from toolkit.run.run import Run

ADVANCE = "advance"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One submission: a job or an array."""

    job: int
    """Its number."""
    stage: str
    """The stage, or advance."""
    units: str
    """What it is to do, e.g. 0-99,120."""
    tasks: int
    """Elements of the array; 1 where it is a plain job."""
    submitted: str
    """When, UTC."""
    settled: bool = False
    """Whether its ending was looked at."""
    recalled: bool = False
    """Whether `danqing cancel` called it back, so that its ending says nothing."""
    until: str = ""
    """Of an advance: the stage that it goes as far as; empty = the last."""

    def all(self) -> list[int]:
        """Return its units, ascending."""
        return listed(self.units)

    def share(self, task: int) -> Sequence[int]:
        """Return the units of one task."""
        return share(self.all(), task, self.tasks)

    def task_of(self, unit: int) -> int | None:
        """Return the task that a unit belongs to; None where it is none of this record's."""
        units = self.all()
        place = bisect_right(units, unit) - 1
        if place < 0 or units[place] != unit:
            return None
        return ((place + 1) * self.tasks - 1) // len(units)

    def element(self, task: int) -> str:
        """Return a task as Slurm names it."""
        return f"{self.job}_{task}" if self.tasks > 1 else str(self.job)


def listed(text: str) -> list[int]:
    """Return the units that "0-99,120" names; the inverse of `ranges`."""
    bounds = (piece.partition("-") for piece in text.split(",") if piece)
    return [u for low, _, high in bounds for u in range(int(low), int(high or low) + 1)]


def ranges(units: Sequence[int]) -> str:
    """Return ascending units as "0-99,120"; the inverse of `listed`."""
    runs: list[list[int]] = []
    for unit in units:
        if runs and unit == runs[-1][1] + 1:
            runs[-1][1] = unit
        else:
            runs.append([unit, unit])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def share(units: Sequence[int], index: int, count: int) -> Sequence[int]:
    """Return part `index` of `count` of the units."""
    return units[cut(len(units), index, count)]


def cut(units: int, index: int, count: int) -> slice:
    """Return where part `index` of `count` lies among so many units."""
    return slice(units * index // count, units * (index + 1) // count)


def name(run: Run, stage: str) -> str:
    """Return the name of a stage's jobs: a run's jobs are told from all others by it, those of no record too."""
    real = os.path.realpath(run.layout.root)  # the same run by whatever link it is reached
    key = hashlib.blake2b(os.fsencode(real), digest_size=4).hexdigest()
    return f"danqing-{key}-{stage}"


def names(run: Run) -> dict[str, str]:
    """Return the stage (or advance) for each name that a job of this run may have."""
    return {name(run, stage): stage for stage in (*BY_NAME, ADVANCE)}


def records(run: Run) -> list[Record]:
    """Return what was submitted, in order."""
    found = []
    for path in run.layout.jobs.glob("*.json"):
        try:
            found.append(msgspec.json.decode(path.read_bytes(), type=Record))
        except (OSError, msgspec.DecodeError, msgspec.ValidationError):
            continue  # a record that can not be read explains nothing; what is done, the ledger knows
    return sorted(found, key=lambda r: r.job)


def write(run: Run, record: Record) -> Record:
    """Keep a record."""
    files.replace(run.layout.job(record.job), msgspec.json.encode(record))
    return record


def log(run: Run, stage: Stage, element: str) -> Path:
    """Return the path of the log of a job or array element, which may not be there."""
    return run.layout.logs(stage) / f"{element}.log"


def check(run: Run) -> None:
    """Refuse what no job could run: a stage that does not exist, a run folder that a script can not name."""
    site = run.config.executor.site
    for stage in site.stages:
        if stage not in (*BY_NAME, ADVANCE):
            raise UserError(f"executor.site.stages names {stage!r}; known are {', '.join((*BY_NAME, ADVANCE))}.")
    root = str(run.layout.root)
    if odd := [c for c in root if c in "%\\" or not c.isprintable()]:
        raise UserError(
            f"The run folder {root!r} has the character {odd[0]!r} in its path, which Slurm takes for a sign of its "
            "own in the names of logs; give run_dir a path without %, \\ and control characters."
        )
