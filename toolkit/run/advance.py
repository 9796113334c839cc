"""One step of a run on a cluster: look at what is done, submit what comes next, leave a job behind that looks again.

`danqing run` takes the first step, and the small job behind each stage takes the others; so no process has to live on
the login node. A step is safe at any time, any number of times, from anywhere: what moves is asked of Slurm by the
names of the run's jobs, what is done of the ledger. Nothing depends on a job's success, so nothing waits for ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from toolkit.data.stage import Stage
from toolkit.errors import WorkError
from toolkit.recipe import BY_NAME
from toolkit.run import clock, failures, files, jobs, scheduler
from toolkit.run.drive import Outcome, clear, settle, stages_until, wave
from toolkit.run.job import ranges
from toolkit.run.jobs import ADVANCE, Record
from toolkit.run.packing import pack, room
from toolkit.run.run import Run
from toolkit.run.scheduler import Ended, Limits, Live

LONGEST_WAIT_S = 3600
_TURNS = 120  # seconds to wait for another step
_PATIENCE = 15  # minutes to wait for Slurm


@dataclass
class Step:
    """What a step found and did."""

    submitted: list[Record] = field(default_factory=list)
    moving: list[Live] = field(default_factory=list)  # jobs of this run that Slurm held already
    outcome: Outcome = field(default_factory=Outcome)
    cancelled: str = ""  # why nothing is submitted any more

    @property
    def ended(self) -> bool:
        """Whether nothing moves and nothing was submitted: the run is as far as it can go."""
        return not (self.submitted or self.moving)


def advance(run: Run, until: str | None = None) -> Step:
    """Take one step, of a run that this process holds."""
    step = Step(moving=_moving(run))
    if run.layout.cancelled.exists():
        step.cancelled = run.layout.cancelled.read_text()
        return step
    at_work = sorted({m.job for m in step.moving if _stage(run, m) != ADVANCE})
    others = [m for m in step.moving if _stage(run, m) == ADVANCE and _goes_first(m)]
    if at_work and not others and run.config.executor.site.advance:
        step.submitted.append(jobs.follow(run, at_work, until))
    if at_work or others:
        return step
    judge(run)
    if run.layout.cancelled.exists():
        step.cancelled = run.layout.cancelled.read_text()
        return step
    chain = _one_stage if run.config.executor.site.advance else _all_stages
    chain(run, stages_until(run, until), until, step)
    return step


def _own() -> int | None:
    """Return the number of the job that this process runs in."""
    element = scheduler.element()
    return int(element.partition("_")[0]) if element else None


def _goes_first(other: Live) -> bool:
    """Return whether this step is left to another `advance`: of two that run at once the younger takes it."""
    own = _own()
    return own is None or other.state == "PENDING" or other.job > own


def _moving(run: Run) -> list[Live]:
    """Return what Slurm holds of this run, this process's own job apart."""
    own = _own()
    return [m for m in scheduler.live(list(jobs.names(run))) if m.job != own]


def _stage(run: Run, job: Live) -> str:
    return jobs.names(run)[job.name]


def _one_stage(run: Run, chosen: Sequence[Stage], until: str | None, step: Step) -> None:
    """Submit the first stage that has something to do, and `advance` behind it."""
    limits: Limits | None = None
    for stage in chosen:
        for units in (range(run.units(stage)), range(run.units(stage), run.all_units(stage))):
            todo = _todo(run, stage, units, step.outcome)
            if not todo:
                continue
            limits = limits or scheduler.limits()
            step.submitted += _send(run, stage, todo, limits, {})
            if step.submitted:
                step.submitted.append(jobs.follow(run, [r.job for r in step.submitted], until))
            else:  # no room in the queue: look again later
                step.submitted.append(jobs.follow(run, [], until, begin_s=60))
            return
        settle(run, stage)


def _all_stages(run: Run, chosen: Sequence[Stage], until: str | None, step: Step) -> None:
    """Submit every stage behind the one before, where jobs may not submit jobs."""
    limits = scheduler.limits()
    before: list[int] = []
    for stage in chosen:
        for units in (range(run.units(stage)), range(run.units(stage), run.all_units(stage))):
            gone = failures.aside(run, stage)
            missing = [u for u in wave(run, stage, units).missing if u not in gone]
            options = {"dependency": f"afterany:{':'.join(map(str, before))}"} if before else {}
            sent = _send(run, stage, missing, limits, options)
            step.submitted += sent
            before = [r.job for r in sent] or before
    if not step.submitted:
        for stage in chosen:
            _todo(run, stage, range(run.all_units(stage)), step.outcome)
            settle(run, stage)


def _todo(run: Run, stage: Stage, units: Sequence[int], outcome: Outcome) -> list[int]:
    """Return the units that can be tried now, and note in the outcome those that can not, and those set aside."""
    found = wave(run, stage, units)
    gone = failures.aside(run, stage)
    outcome.aside |= {(stage.name, u): gone[u] for u in found.missing if u in gone}
    if len(found.todo) < len(found.missing):
        outcome.waiting.append(f"{stage.name}: {len(found.missing) - len(found.todo)} of {len(units)} units")
    if stage is run.stages[-1]:  # a dataset that is no longer true must not lie there as if it were
        for unit in set(found.missing) & run.ledger.entries(stage).keys():
            clear(run, stage, unit)
    return [u for u in found.todo if u not in gone]


def _send(run: Run, stage: Stage, units: Sequence[int], limits: Limits, options: dict[str, str]) -> list[Record]:
    """Submit units: those that failed before after a while, the others now."""
    tried = Counter({f.unit: f.attempts for f in failures.failures(run, stage)})
    sent: list[Record] = []
    for failed in sorted({tried[u] for u in units}):
        own = [u for u in units if tried[u] == failed]
        wait = {"begin": f"now+{_wait_s(run, failed)}"} if failed else {}
        for array in pack(run, stage, own, limits, room(limits, sum(r.tasks for r in sent))):
            for units_of, tasks in _short(array.units, array.tasks):
                sent.append(jobs.submit(run, stage, units_of, tasks, options | wait))
    return sent


def _wait_s(run: Run, failed: int) -> int:
    return min(LONGEST_WAIT_S, run.config.executor.site.backoff_s << (failed - 1))


def _short(units: Sequence[int], tasks: int) -> list[tuple[Sequence[int], int]]:
    """Cut an array whose scattered units make too long a line."""
    if tasks < 2 or len(ranges(units)) <= jobs.UNITS_CHARS:
        return [(units, tasks)]
    half = tasks // 2
    cut = len(units) * half // tasks
    return [*_short(units[:cut], half), *_short(units[cut:], tasks - half)]


# What sacct says of jobs that have just ended may lag behind.
_UNSURE = frozenset(("RUNNING", "PENDING", "COMPLETING", "SUSPENDED"))
_LAG_S = (1, 2, 4, 8)


def judge(run: Run) -> None:
    """Look at how the jobs ended that no longer move, and count against a unit only what was its own fault.

    A unit that was begun and left without a word, in a job that was not preempted and whose node did not fail, has
    failed. So has each unit of a task that ended badly and moved nothing: its setup lines may be wrong. What only was
    never reached is simply missing.
    """
    ended = [r for r in jobs.records(run) if not r.settled and r.stage in BY_NAME and BY_NAME[r.stage] in run.stages]
    short = [r for r in ended if any(run.valid(BY_NAME[r.stage], u) is None for u in r.all())]
    history = _history(short)
    for record in short:
        states = [history.get((record.job, task)) for task in range(record.tasks)]
        if all(state is not None and state.state == "CANCELLED" for state in states):
            files.replace(run.layout.cancelled, f"job {record.job} ({record.stage}) was cancelled".encode())
            continue
        left = _Left(run, BY_NAME[record.stage])
        for task, state in enumerate(states):
            left.judge(record, task, state)
    for record in ended:
        jobs.write(run, msgspec.structs.replace(record, settled=True))


def _history(ended: Sequence[Record]) -> dict[tuple[int, int], Ended]:
    numbers = [record.job for record in ended]
    found = scheduler.history(numbers)
    for pause_s in _LAG_S:
        if found is None or not any(state.state in _UNSURE for state in found.values()):
            break
        clock.sleep(pause_s)
        found = scheduler.history(numbers)
    return found or {}


class _Left:
    """What unfinished attempts left in a stage's work/ folder; no job of the run moves any more."""

    def __init__(self, run: Run, stage: Stage) -> None:
        self.run, self.stage = run, stage
        self.attempts: dict[int, list[Path]] = {}  # an attempt that ends by itself removes its folder
        self.parts: set[int] = set()  # units with checkpoints
        for path in run.layout.work(stage).glob("*.*"):
            unit, _, rest = path.name.partition(".")
            if rest.startswith("parts-"):
                self.parts.add(int(unit))
            elif path.is_dir() and unit.isdigit():
                self.attempts.setdefault(int(unit), []).append(path)

    def judge(self, record: Record, task: int, state: Ended | None) -> None:
        """Note what failed in one task, and sweep what it left."""
        units = record.share(task)
        missing = [u for u in units if self.run.valid(self.stage, u) is None]
        begun = [u for u in missing if u in self.attempts]
        if state is not None and state.state in scheduler.INNOCENT:
            begun = []
        elif not begun and len(missing) == len(units) and not self.parts & set(units) and not self.told(record, units):
            begun = [u for u in missing if self.run.ready(self.stage, u)]
        reason = state.told() if state is not None else "its process ended without a word"
        element = f"{record.job}_{task}" if record.tasks > 1 else str(record.job)
        for unit in begun:
            failures.note(self.run, self.stage, unit, f"the attempt was cut off: {reason}", job=element)
        for unit in (u for u in missing if u in self.attempts):
            clear(self.run, self.stage, unit)  # carries forward what was won
            if self.run.valid(self.stage, unit) is None:
                for path in self.attempts.pop(unit, ()):
                    files.clear(path)  # whoever still writes there is a ghost on a lost node

    def told(self, record: Record, units: Sequence[int]) -> bool:
        """Return whether some unit of a task wrote down itself why it failed."""
        found = (failures.read(self.run, self.stage, u) for u in units)
        return any(f is not None and (f.job or "").partition("_")[0] == str(record.job) for f in found)


def cancel(run: Run) -> list[int]:
    """Call all jobs of a run back, and let none come again until somebody runs it; return their numbers."""
    files.private(run.layout.jobs)
    files.replace(run.layout.cancelled, f"`danqing cancel` at {clock.now()}".encode())
    moving = scheduler.live(list(jobs.names(run)))
    first = {m.job for m in moving if _stage(run, m) == ADVANCE}  # else it would take the end of the others for its cue
    order = [*sorted(first), *sorted({m.job for m in moving} - first)]
    scheduler.cancel(order)
    return order


def resume(run: Run) -> None:
    """Let jobs come again, and give all units their attempts anew: somebody asks for it."""
    files.remove(run.layout.cancelled)
    failures.forgive(run)


def finish(run: Run, until: str | None) -> Step:
    """Wait until the run's jobs have ended, asking Slurm less often as time goes by; return the last step."""
    pause_s = 1.0
    while True:
        if not _moving(run):
            run.forget()
            step = hold(run, until)
            if step.ended or step.cancelled:
                return step
        clock.sleep(pause_s)
        pause_s = min(30.0, pause_s * 1.3)


def hold(run: Run, until: str | None) -> Step:
    """Take a step as the only process that does; wait for another one to have done so."""
    for _ in range(_TURNS):
        try:
            run.hold()
        except WorkError:
            clock.sleep(1)
            continue
        try:
            return advance(run, until)
        finally:
            run.free()
    raise WorkError(f"Another process drives the run {run.layout.root}; wait for it, or end it and start again.")


def patient(run: Run, until: str | None) -> Step:
    """Take a step from inside a job, where nobody would try again: Slurm may be away for a while."""
    for _ in range(_PATIENCE):
        try:
            return hold(run, until)
        except WorkError as error:
            said = error
            clock.sleep(60)
    raise said
