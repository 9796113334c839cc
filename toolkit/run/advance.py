"""One step of a run on a cluster: look at what is done, submit what comes next, leave a job behind that looks again.

`danqing run` takes the first step, and the small job behind each stage takes the others; so no process has to live on
the login node. A step is safe at any time, any number of times, from anywhere: what moves is asked of Slurm by the
names of the run's jobs, what is done of the ledger. Nothing depends on a job's success, so nothing waits for ever.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

import msgspec

from toolkit.data.stage import Stage
from toolkit.errors import WorkError
from toolkit.recipe import BY_NAME
from toolkit.run import clock, failures, files, jobs, records, scheduler
from toolkit.run.drive import Outcome, clear, settle, stages_until, wave
from toolkit.run.job import kept
from toolkit.run.packing import pack, room
from toolkit.run.records import ADVANCE, Record, ranges
from toolkit.run.run import Run
from toolkit.run.scheduler import Ended, Limits, Live

LONGEST_WAIT_S = 3600
_PATIENCE_S = 15 * 60  # to wait for Slurm
_VAIN = 8  # steps in a row that led to nothing, each after twice the time, before the run is left: two and a half days
_NO_ROOM_S = 5 * 60  # until the queue is looked at again


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
    held = scheduler.queue()
    step = Step(moving=_moving(run, held))
    if run.layout.cancelled.exists():
        step.cancelled = run.layout.cancelled.read_text()
        return step
    at_work = sorted({m.job for m in step.moving if _stage(run, m) != ADVANCE})
    others = [m for m in step.moving if _stage(run, m) == ADVANCE and _goes_first(run, m, until)]
    if (at_work or others) and run.config.executor.site.advance and all(m.state != "PENDING" for m in others):
        # One that runs may have taken its step already, and one that ends has.
        step.submitted.append(jobs.follow(run, at_work or sorted({m.job for m in others}), until))
    if at_work or others:
        return step
    run.unclean()
    judge(run)
    if run.layout.cancelled.exists():
        step.cancelled = run.layout.cancelled.read_text()
        return step
    chain = _one_stage if run.config.executor.site.advance else _all_stages
    chain(run, stages_until(run, until), until, step, sum(len(m.tasks) for m in held))
    return step


def _goes_first(run: Run, other: Live, until: str | None) -> bool:
    """Return whether this step is left to another `advance`, which goes as far: of two at once the younger takes it."""
    theirs = next((r.until for r in records.records(run) if r.job == other.job), "")
    if len(stages_until(run, theirs or None)) < len(stages_until(run, until)):
        return False
    own = scheduler.own()
    return own is None or other.state == "PENDING" or other.job > own


def _moving(run: Run, held: Sequence[Live] | None = None) -> list[Live]:
    """Return what Slurm holds of this run, but for this process's own job, and steps that were taken and end."""
    own, known = scheduler.own(), records.names(run)
    found = [m for m in (scheduler.queue() if held is None else held) if m.name in known and m.job != own]
    return [m for m in found if not (known[m.name] == ADVANCE and m.state == "COMPLETING")]


def idle(run: Run) -> None:
    """Raise WorkError while jobs of a run wait or run: what is done here would be done twice, or under their hands."""
    if moving := sorted({m.job for m in _moving(run)}):
        raise WorkError(
            f"Jobs of the run {run.layout.root} wait or run ({', '.join(map(str, moving[:5]))}). Wait until they have "
            "ended, or call them back with `danqing cancel`, then run the same command again."
        )


def _stage(run: Run, job: Live) -> str:
    return records.names(run)[job.name]


def _one_stage(run: Run, chosen: Sequence[Stage], until: str | None, step: Step, held: int) -> None:
    """Submit the first stage that has something to do, and `advance` behind it."""
    limits: Limits | None = None
    for stage in chosen:
        for units in (range(run.units(stage)), range(run.units(stage), run.all_units(stage))):
            todo = _todo(run, stage, units, step.outcome)
            if not todo:
                continue
            limits = limits or scheduler.limits()
            step.submitted += _send(run, stage, todo, limits, queued=held)
            step.submitted.append(_follow(run, step, until))
            return
        settle(run, stage)


def _follow(run: Run, step: Step, until: str | None) -> Record:
    """Leave `advance` behind what was submitted; where nothing could be, for want of room, let it look again later.

    Where it is refused, what was submitted is called back: nobody would go on with the run.
    """
    try:
        behind = [record.job for record in step.submitted]
        return jobs.follow(run, behind, until, begin_s=0 if behind else _NO_ROOM_S)
    except BaseException:
        for record in step.submitted:
            records.write(run, msgspec.structs.replace(record, recalled=True))
        scheduler.cancel([record.job for record in step.submitted])
        raise


def _all_stages(run: Run, chosen: Sequence[Stage], until: str | None, step: Step, held: int) -> None:
    """Submit every stage behind the one before, where jobs may not submit jobs."""
    limits = scheduler.limits()
    before: list[int] = []
    for stage in chosen:
        for units in (range(run.units(stage)), range(run.units(stage), run.all_units(stage))):
            gone = failures.aside(run, stage)
            found = wave(run, stage, units)
            todo = [u for u in (found.missing if before else found.todo) if u not in gone]
            queued = held + sum(r.tasks for r in step.submitted)
            sent = _send(run, stage, todo, limits, before=before, queued=queued)
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


def _send(
    run: Run, stage: Stage, units: Sequence[int], limits: Limits, *, before: Sequence[int] = (), queued: int = 0
) -> list[Record]:
    """Submit units, behind other jobs: those that failed before after a while, the others now."""
    options = {"dependency": f"afterany:{':'.join(map(str, before))}"} if before else {}
    tried = Counter({f.unit: f.attempts for f in failures.failures(run, stage)})
    sent: list[Record] = []
    for failed in sorted({tried[u] for u in units}):
        own = [u for u in units if tried[u] == failed]
        wait = {"begin": f"now+{_wait_s(run, failed)}"} if failed else {}
        for array in pack(run, stage, own, limits, room(limits, queued + sum(r.tasks for r in sent))):
            for units_of, tasks in _short(array.units, array.tasks):
                found = _fitting(run, stage, units_of, tasks, options | wait)
                sent += found
                if not found or found[0].tasks < tasks:
                    return sent  # the others come when there is room
    return sent


def _fitting(run: Run, stage: Stage, units: Sequence[int], tasks: int, options: dict[str, str]) -> list[Record]:
    """Submit an array, or as much of it as this user may have queued."""
    while tasks and not run.layout.cancelled.exists():
        try:
            return [jobs.submit(run, stage, units, tasks, options)]
        except scheduler.FullError:
            half = tasks // 2
            units, tasks = units[: len(units) * half // tasks], half
    return []


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
_LAG_S = (1, 2, 4, 8, 16, 32)


def judge(run: Run) -> None:
    """Look at how the jobs ended that no longer move, and count against a unit only what was its own fault.

    A unit that was begun and left without a word, in a job that was not preempted and whose node did not fail, has
    failed. So has each unit of a task that ended badly and moved nothing: its setup lines may be wrong. What only was
    never reached is simply missing.
    """
    ended = [r for r in records.records(run) if not r.settled and r.stage in BY_NAME and BY_NAME[r.stage] in run.stages]
    short = [r for r in ended if run.missing(BY_NAME[r.stage], r.all())]
    history = _history(short)
    for record in ended:
        if record in short:
            _judge(run, record, history)
        records.write(run, msgspec.structs.replace(record, settled=True))


def _judge(run: Run, record: Record, history: Mapping[tuple[int, int], Ended] | None) -> None:
    states = [(history or {}).get((record.job, task)) for task in range(record.tasks)]
    left = _Left(run, record, accounted=history is not None)
    if record.recalled:
        pass  # whoever did so asked for nothing else, and somebody has asked to go on since
    elif all(state is not None and state.state == "CANCELLED" for state in states):
        files.replace(run.layout.cancelled, f"job {record.job} ({record.stage}) was cancelled".encode())
    else:
        for task, state in enumerate(states):
            left.judge(task, state)
    left.sweep()


def _history(ended: Sequence[Record]) -> dict[tuple[int, int], Ended] | None:
    numbers = [record.job for record in ended]
    elements = {(record.job, task) for record in ended for task in range(record.tasks)}
    found = scheduler.history(numbers)
    for pause_s in _LAG_S:
        if found is None or not _lags(found, elements):
            break
        clock.sleep(pause_s)
        found = scheduler.history(numbers)
    return found


def _lags(found: Mapping[tuple[int, int], Ended], elements: Set[tuple[int, int]]) -> bool:
    """Return whether accounting has not heard yet how all of these ended."""
    return bool(elements - found.keys()) or any(state.state in _UNSURE for state in found.values())


class _Left:
    """What the tasks of one submission left in their stage's work/ folder; no job of the run moves any more."""

    def __init__(self, run: Run, record: Record, accounted: bool) -> None:
        self.run, self.stage, self.record = run, BY_NAME[record.stage], record
        self.accounted = accounted
        self.attempts: dict[int, list[Path]] = {}  # an attempt that ends by itself removes its folder
        self.won: set[int] = set()  # units of which something was kept since they were submitted
        for path in run.layout.work(self.stage).glob("*.*"):
            unit, _, rest = path.name.partition(".")
            if rest.startswith("parts-"):
                if kept(run, self.stage, int(unit), record.submitted):
                    self.won.add(int(unit))
            elif path.is_dir() and unit.isdigit():
                self.attempts.setdefault(int(unit), []).append(path)

    def judge(self, task: int, state: Ended | None) -> None:
        """Note what failed in one task."""
        if state is not None and state.state in scheduler.INNOCENT:
            return
        units = self.record.share(task)
        missing = [u for u in units if self.missing(u)]
        begun = [u for u in missing if u in self.attempts]
        # With accounting, a task of which it knows nothing never started, and one that was cancelled had no say.
        started = not self.accounted or (state is not None and state.state not in ("CANCELLED", *_UNSURE))
        if not begun and started and len(missing) == len(units) and not self.won & set(units) and not self.told(units):
            begun = [u for u in missing if self.run.ready(self.stage, u)]
        begun = [u for u in begun if not self.told([u])]
        if state is not None and state.state == "TIMEOUT":
            begun = [u for u in begun if u not in self.won]
        element = self.record.element(task)
        for unit in begun:
            failures.note(self.run, self.stage, unit, f"the attempt was cut off: {self.why(element, state)}", element)

    def missing(self, unit: int) -> bool:
        """Return whether a unit is not done."""
        return self.run.valid(self.stage, unit) is None

    def told(self, units: Sequence[int]) -> bool:
        """Return whether some unit of a task wrote down itself why it failed."""
        found = (failures.read(self.run, self.stage, u) for u in units)
        return any(f is not None and (f.job or "").partition("_")[0] == str(self.record.job) for f in found)

    def why(self, element: str, state: Ended | None) -> str:
        """Return why a task ended, as far as anybody says."""
        memory = scheduler.out_of_memory(records.log(self.run, self.stage, element))
        if state is None:
            return scheduler.MEMORY if memory else "its process ended without a word"
        return (replace(state, state="OUT_OF_MEMORY") if memory else state).told()

    def sweep(self) -> None:
        """Carry forward what was won, and remove the rest."""
        for unit in (u for u in self.record.all() if u in self.attempts and self.missing(u)):
            clear(self.run, self.stage, unit)
            if self.missing(unit):
                for path in self.attempts[unit]:
                    files.clear(path)  # whoever still writes there is a ghost on a lost node


def cancel(run: Run) -> list[int]:
    """Call all jobs of a run back, and let none come again until somebody runs it; return their numbers."""
    files.replace(run.layout.cancelled, f"`danqing cancel` at {clock.now()}".encode())
    with suppress(WorkError):  # a step under way sees that before its next job, and is over when this is got
        run.hold()
    called: list[int] = []
    while found := _order(run, [m for m in scheduler.live(list(records.names(run))) if m.job not in called]):
        for record in (r for r in records.records(run) if r.job in found):
            records.write(run, msgspec.structs.replace(record, recalled=True))
        scheduler.cancel(found)
        called += found  # and look again: a step that was under way may have submitted more
    run.free()
    return called


def _order(run: Run, moving: Sequence[Live]) -> list[int]:
    """Return jobs in the order in which they are called back."""
    first = {m.job for m in moving if _stage(run, m) == ADVANCE}  # else it would take the end of the others for its cue
    return [*sorted(first), *sorted({m.job for m in moving} - first)]


def resume(run: Run) -> None:
    """Let jobs come again, and give all units their attempts anew: somebody asks for it."""
    files.remove(run.layout.cancelled)
    failures.forgive(run)


def finish(run: Run, until: str | None, show: Callable[[], None] = lambda: None) -> Step:
    """Wait until the run's jobs have ended, asking Slurm less often as time goes by; return the last step.

    `show` is called at each look.
    """
    pause_s = 1.0
    while True:
        show()
        if not _moving(run):
            step = hold(run, until)
            if step.ended or step.cancelled:
                return step
        clock.sleep(pause_s)
        pause_s = min(30.0, pause_s * 1.3)


def hold(run: Run, until: str | None) -> Step:
    """Take a step as the only process that does; wait for another one to have done so. Raises WorkError."""
    run.hold()
    try:
        run.forget()
        return advance(run, until)
    finally:
        run.free()


def patient(run: Run, until: str | None) -> Step:
    """Take a step from inside a job, where nobody would try again: Slurm, or the disk, may be away for a while.

    Where they stay away, or this job has to end before, another one is left that takes the step later.
    """
    for signum in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(signum, _late)
    end = clock.ticks() + _PATIENCE_S
    try:
        while True:
            try:
                return hold(run, until)
            except (WorkError, OSError):
                if clock.ticks() >= end:
                    raise
                clock.sleep(60)
    except (WorkError, OSError, _Late) as error:
        for signum in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(signum, signal.SIG_IGN)
        if scheduler.element() and not run.layout.cancelled.exists() and (turns := _in_a_row(run)) < _VAIN:
            jobs.follow(run, [], until, begin_s=0 if isinstance(error, _Late) else _PATIENCE_S << turns)
        if isinstance(error, _Late):
            raise WorkError("This job was asked to end before its step was taken; another one takes it.") from error
        raise


def _in_a_row(run: Run) -> int:
    """Return how many of the last jobs were steps that led to nothing."""
    found = [record.stage == ADVANCE for record in records.records(run)]
    return len(found) if all(found) else found[::-1].index(False)


class _Late(BaseException):
    """The job that takes a step is asked to end: its time limit, or preemption, which may not bring it back."""


def _late(signum: int, frame: FrameType | None) -> None:
    raise _Late
