"""What the jobs of a run do on a cluster, beside what is done: two calls to Slurm at most, whatever the run's size.

`ask` makes the calls; `state` puts marks, failures, records and the answers together, and is a function of them alone.
Slurm's word only explains: where it can not be asked, all that marks and failures say is still there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.data.stage import Stage
from toolkit.data.visible import visible
from toolkit.errors import UserError, WorkError
from toolkit.recipe import BY_NAME
from toolkit.report.logs import command
from toolkit.run import clock, scheduler
from toolkit.run.failures import Failure
from toolkit.run.ledger import Marks
from toolkit.run.records import Record, cut, names, records
from toolkit.run.run import Run
from toolkit.run.scheduler import Ended, Live

Failed = Mapping[str, Sequence[Failure]]
"""The failures of units that are not done, by stage."""

# The pace is that of the last units done: of this long, and of three of them one after another at least.
STRETCH_S = 600
_WAITS = "PENDING"
_AGAIN = "BeginTime"  # why a task waits that Slurm has put into the queue again, or that comes after a back-off

# What squeue gives as the reason why a task waits (squeue(1), JOB REASON CODES), in words.
WHY = {
    "Priority": "others come first",
    "Resources": "it waits for processors, memory or nodes to become free",
    "Dependency": "it waits for the jobs before it",
    "DependencyNeverSatisfied": "what it waits for can not happen any more; cancel the run and start it again",
    _AGAIN: "its time has not come: it was put into the queue again, or is tried again after a pause",
    "JobArrayTaskLimit": "as many of its array run as `throttle` allows",
    "JobHeldUser": "it is held; `scontrol release` lets it go",
    "JobHeldAdmin": "the cluster's administrators hold it",
    "PartitionTimeLimit": "it asks for more minutes than its partition gives; lower `minutes`",
    "PartitionNodeLimit": "it asks for more nodes than its partition gives",
    "PartitionDown": "its partition takes no jobs now",
    "PartitionInactive": "its partition starts no jobs now",
    "ReqNodeNotAvail": "nodes that it needs are down or reserved, often for maintenance",
    "NodeDown": "a node that it needs is down",
    "Reservation": "it waits for its reservation",
    "Licenses": "it waits for a licence",
    "BadConstraints": "no node can ever give what it asks for; mend the site's options",
    "InvalidAccount": "its account is not known; mend `account`",
    "InvalidQOS": "its qos is not known; mend `qos`",
}


def told(reason: str) -> str:
    """Return the reason why a task waits in words; "" where there are none for it."""
    name = re.split(r"[,(]", reason.strip("()"))[0].strip()
    if name in WHY:
        return WHY[name]
    if re.match(r"(QOS|Assoc)\w*(Limit|Grp|Max)", name):
        whose = "qos" if name.startswith("QOS") else "account"
        return f"a limit of your {whose} is reached; it goes on when something of yours has ended"
    if "held" in reason.lower():
        return WHY["JobHeldUser"]
    return ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What Slurm said."""

    live: Sequence[Live] | None
    """What it holds of the run; None where it could not be asked."""
    history: Mapping[tuple[int, int], Ended] = field(default_factory=dict)
    """How elements ended that nobody has looked at yet, by job and index."""
    problem: str = ""
    """Why it could not be asked."""


@dataclass
class Jobs:
    """A run and its jobs, looked at once."""

    run: Run
    failed: Failed
    records: Sequence[Record]
    _units: dict[int, npt.NDArray[np.int64]] = field(default_factory=dict)

    @cached_property
    def done(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Which units are done, by stage."""
        return {stage.name: _done(self.run, stage) for stage in self.run.stages}

    @cached_property
    def of_name(self) -> dict[str, str]:
        """The stage, or advance, that a job's name tells."""
        return names(self.run)

    @property
    def complete(self) -> bool:
        """Whether all is done."""
        return all(bool(done.all()) for done in self.done.values())

    def missing(self, record: Record, task: int) -> npt.NDArray[np.int64]:
        """Return the units of a task that are not done."""
        done = self.done.get(record.stage, np.ones(0, bool))
        if record.job not in self._units:
            units = np.array(record.all(), np.int64)
            self._units[record.job] = units if self.done.get(record.stage) is not None else units[:0]
        own = self._units[record.job]
        units = own[cut(len(own), task, record.tasks)]
        return units[~done[units]]

    def gone(self, live: Sequence[Live]) -> Iterator[tuple[Record, int]]:
        """Yield the tasks that nobody has looked at since they ended, and that left something undone."""
        held: dict[int, set[int]] = {}
        for job in live:
            held.setdefault(job.job, set()).update(job.tasks)
        for record in self.records:
            if not record.settled and record.stage in BY_NAME:
                tasks = (task for task in range(record.tasks) if task not in held.get(record.job, ()))
                yield from ((record, task) for task in tasks if len(self.missing(record, task)))


def _done(run: Run, stage: Stage) -> npt.NDArray[np.bool_]:
    done = np.zeros(run.all_units(stage), bool)
    done[run.marks(stage).columns.units] = True
    return done


def look(run: Run, failed: Failed) -> dict[str, Any]:
    """Return the state of a run's jobs as plain JSON (ClusterStatus in docs/formats.md)."""
    jobs = Jobs(run, failed, records(run))
    return state(jobs, ask(jobs), clock.now())


def ask(jobs: Jobs) -> Answer:
    """Ask Slurm what moves, and how that ended which left something undone: two calls at most, none of a whole run."""
    if jobs.complete:
        return Answer(())
    try:
        live = scheduler.live(list(jobs.of_name), patient=False)
    except (UserError, WorkError) as error:
        return Answer(None, problem=str(error))
    again = {job.job for job in live if job.state == _WAITS and _AGAIN in job.reason}
    numbers = sorted({record.job for record, _ in jobs.gone(live)} | again)
    try:
        return Answer(live, scheduler.history(numbers) or {})
    except UserError:
        return Answer(live)  # this machine has no sacct


def state(jobs: Jobs, answer: Answer, now: str) -> dict[str, Any]:
    """Return the state of a run's jobs as plain JSON; `now` is the time to which ends are estimated."""
    run, live = jobs.run, answer.live or ()
    called_back = run.layout.cancelled
    cancelled = visible(called_back.read_text(errors="replace"), 200) if called_back.exists() else None
    stages = [_stage(jobs, stage, live, now) for stage in run.stages]
    return {
        "problem": visible(answer.problem, 400) or None,
        "cancelled": cancelled,
        "stuck": None if answer.live is None else not live and not jobs.complete,
        "stages": stages,
        "jobs": [*_live(jobs, live)],
        "ended": [*_ended(jobs, answer)],
    }


def _stage(jobs: Jobs, stage: Stage, live: Sequence[Live], now: str) -> dict[str, Any]:
    run, done = jobs.run, jobs.done[stage.name]
    failed = jobs.failed.get(stage.name, ())
    aside = {f.unit for f in failed if f.attempts > run.config.executor.retries}
    running = _running(jobs, stage, live)
    again = {f.unit for f in failed} - aside - running
    missing = len(done) - int(done.sum())
    pace = rate(run.marks(stage)) if running else None
    return {
        "stage": stage.name,
        "pending": missing - len(aside | running | again),
        "running": len(running - aside),
        "again": len(again),
        "aside": len(aside),
        "rate": None if pace is None else round(pace, 1),
        "ends": None if not pace else _after(now, (missing - len(aside)) / pace * 3600),
    }


def _running(jobs: Jobs, stage: Stage, live: Sequence[Live]) -> set[int]:
    """Return the units of tasks that run, those that are done apart."""
    numbered = {record.job: record for record in jobs.records}
    found: set[int] = set()
    for job in live:
        record = numbered.get(job.job)
        if record is not None and record.stage == stage.name and job.state != _WAITS:
            found.update(u for task in job.tasks for u in jobs.missing(record, task).tolist())
    return found


def rate(marks: Marks) -> float | None:
    """Return the units an hour that were done in the last stretch of work; None where marks do not tell."""
    columns = marks.columns.take(marks.columns["ended"] > 0)
    if not len(columns.units):
        return None
    ended, seconds = columns["ended"], columns["seconds"]
    first = int(ended.max()) - max(STRETCH_S, 3 * float(np.median(seconds)))
    recent = ended > first
    begun = max(first, float((ended - seconds)[recent].min()))  # a stage may have stood still before
    return float(3600 * int(recent.sum()) / max(1.0, int(ended.max()) - begun))


def _after(now: str, seconds: float) -> str:
    end = datetime.fromisoformat(now).timestamp() + min(seconds, 1e9)
    return datetime.fromtimestamp(end, UTC).isoformat(timespec="minutes")


def _live(jobs: Jobs, live: Sequence[Live]) -> Iterator[dict[str, Any]]:
    """Yield what Slurm holds: one entry for the tasks of a job in the same state for the same reason."""
    tasks: Counter[tuple[int, str, str, str]] = Counter()
    for job in live:
        reason = job.reason if job.state == _WAITS else ""
        tasks[job.job, jobs.of_name.get(job.name, ""), job.state, reason] += len(job.tasks)
    for (number, stage, state_, reason), count in sorted(tasks.items()):
        words = told(reason) if reason else ""
        yield _row(number, stage, count, state_) | {"reason": visible(reason, 100), "why": words}


def _ended(jobs: Jobs, answer: Answer) -> Iterator[dict[str, Any]]:
    """Yield what ended badly, or was interrupted and waits to be started again, and that nobody has judged yet."""
    tasks: Counter[tuple[int, str, str]] = Counter()
    why: dict[tuple[int, str, str], str] = {}
    explained = {f.job for failed in jobs.failed.values() for f in failed}
    for record, task, ended in _untold(jobs, answer):
        if record.element(task) not in explained:
            key = (record.job, record.stage, ended.state if ended else "UNKNOWN")
            tasks[key] += 1
            why.setdefault(key, visible(ended.told() if ended else "Slurm does not say how", 200))
    for key in sorted(tasks):
        yield _row(key[0], key[1], tasks[key], key[2]) | {"why": why[key]}


def _untold(jobs: Jobs, answer: Answer) -> Iterator[tuple[Record, int, Ended | None]]:
    if answer.live is None:
        return
    for record, task in jobs.gone(answer.live):
        ended = answer.history.get((record.job, task))
        yield record, task, ended
    numbered = {record.job: record for record in jobs.records}
    for job in answer.live:
        for task in job.tasks if job.state == _WAITS and job.job in numbered else ():
            start = answer.history.get((job.job, task))
            if start is not None and start.before:
                last = start.before[-1]
                yield numbered[job.job], task, Ended(last, "0:0", start.node, ())


def _row(job: int, stage: str, tasks: int, state_: str) -> dict[str, Any]:
    return {"job": job, "stage": stage, "tasks": tasks, "state": visible(state_, 40)}


def notes(stage: Mapping[str, Any]) -> list[str]:
    """Return what the table of `status` says of a stage's units and pace."""
    words = {"running": "running", "pending": "pending", "again": "to be tried again", "aside": "set aside"}
    said = [f"{stage[key]:,} {word}" for key, word in words.items() if stage[key]]
    if stage["rate"] is not None:
        said.append(f"{stage['rate']:,.0f} units an hour")
    if stage["ends"]:
        said.append(f"ends about {stage['ends'][:16].replace('T', ' ')} UTC")
    return said


def lines(run_dir: str, found: Mapping[str, Any]) -> Iterator[str]:
    """Return what moves, why the rest waits, and what to do where nothing moves."""
    if found["problem"]:
        yield f"Slurm could not be asked, so nobody knows what moves: {found['problem']}"
    for job in found["jobs"]:
        yield f"job {job['job']} {job['stage']}: {_moves(job)}"
    for job in found["ended"]:
        yield f"job {job['job']} {job['stage']}: {_tasks(job['tasks'])} ended before the work was done: {job['why']}"
    if found["cancelled"]:
        yield f"Cancelled: {found['cancelled']}."
    if found["stuck"]:
        aside = sum(stage["aside"] for stage in found["stages"])
        cause = f"Set aside: {aside:,} of its units; mend the cause. Then " if aside else ""
        again = f"`danqing run CONFIG` or `{command('retry', run_dir)}`"
        yield f"Nothing moves and the run is not complete. {cause}{again} goes on."


def _moves(job: Mapping[str, Any]) -> str:
    if job["state"] != _WAITS:
        return f"{_tasks(job['tasks'])} {job['state'].lower()}"
    return f"{_tasks(job['tasks'])} waiting: {job['reason']}" + (f" ({job['why']})" if job["why"] else "")


def _tasks(count: int) -> str:
    return f"{count:,} task{'s' if count != 1 else ''}"
