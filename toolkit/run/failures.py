"""Why units failed, and how often: one small file a unit, there as long as the unit is not done.

Jobs on a cluster have no common memory, so the count that decides when a unit is set aside stands here too.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator

import msgspec

from toolkit.data.stage import Stage
from toolkit.errors import WorkError
from toolkit.run import clock, files, scheduler
from toolkit.run.run import Run


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the failed attempts at one unit."""

    unit: int
    """The unit."""
    attempts: int
    """Attempts that failed by the unit's own fault, as far as anybody knows; a lost node does not count."""
    time: str
    """When the last one ended, UTC."""
    reason: str
    """Why, in one line."""
    trace: str = ""
    """Python's trace, where there was one."""
    job: str | None = None
    """The job or array element that it ran in."""


def note(run: Run, stage: Stage, unit: int, error: BaseException | str, job: str | None = None) -> str:
    """Count a failed attempt, write down why, and return the reason in one line."""
    if isinstance(error, str):
        reason, trace = error, ""
    else:
        name = "" if isinstance(error, WorkError) else f"{type(error).__name__}: "
        reason, trace = name + " ".join(str(error).split()), "".join(traceback.format_exception(error))
    earlier = read(run, stage, unit)
    record = Failure(
        unit=unit,
        attempts=(earlier.attempts if earlier else 0) + 1,
        time=clock.now(),
        reason=reason,
        trace=trace,
        job=job or scheduler.element(),
    )
    try:
        files.make(run.layout.logs(stage))
        files.replace(run.layout.failure(stage, unit), msgspec.json.format(msgspec.json.encode(record), indent=1))
    except OSError:
        pass  # a full disk is the likely reason of the failure itself; the reason still reaches the terminal
    return reason


def read(run: Run, stage: Stage, unit: int) -> Failure | None:
    """Return what is known of a unit's failures; None where it has none, or the file is damaged."""
    try:
        return msgspec.json.decode(run.layout.failure(stage, unit).read_bytes(), type=Failure)
    except (FileNotFoundError, msgspec.DecodeError, msgspec.ValidationError):
        return None


def failures(run: Run, stage: Stage) -> Iterator[Failure]:
    """Return the failures of the units that are not done since, by unit."""
    for path in sorted(run.layout.logs(stage).glob("*.failed.json")):
        unit = int(path.name.partition(".")[0])
        found = read(run, stage, unit)
        if found is not None and run.valid(stage, unit) is None:
            yield found


def aside(run: Run, stage: Stage) -> dict[int, str]:
    """Return the units that have used up their attempts, and why the last one failed."""
    return {f.unit: f.reason for f in failures(run, stage) if f.attempts > run.config.executor.retries}


def forgive(run: Run) -> None:
    """Give all units their attempts anew: somebody says that the cause is mended."""
    for stage in run.stages:
        for path in run.layout.logs(stage).glob("*.failed.json"):
            files.remove(path)
