"""What Slurm says: its limits, what of a run it holds, how ended jobs ended. One call each, whatever the array's size.

Nothing here decides what is done, the ledger does; Slurm's word only explains, and tells what still moves.
"""

from __future__ import annotations

import getpass
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import UserError, WorkError
from toolkit.run import clock

ANSWER_S = 120  # a busy controller answers late; sbatch itself waits for up to MessageTimeout, often 60 to 100 s
_BUSY = ("timed out", "unable to contact", "connection refused", "temporarily", "try again", "slurm_load", "zero bytes")
_PAUSES_S = (2, 8, 30)

# Refusals of sbatch because the user has as many jobs queued as the association or a qos allows.
# Not "job submit limit": those words stand in the text of every refusal by policy, of a time limit too.
_FULL = ("maxsubmit", "grpsubmit")

# States of an element that ended through no fault of its units.
INNOCENT = frozenset(("PREEMPTED", "NODE_FAIL", "REQUEUED", "BOOT_FAIL"))


class BusyError(WorkError):
    """Slurm can not do it now, and may later."""


class FullError(BusyError):
    """This user has as many jobs queued as the association or a qos allows."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much the cluster takes; None where it does not say."""

    array: int
    """Elements of one array: MaxArraySize, one more than the highest index."""
    jobs: int
    """Jobs that the controller holds for everybody (MaxJobCount); each array element counts."""
    submit: int | None
    """Jobs that this user's association or its qos lets be queued at one time."""
    minutes: dict[str, int | None]
    """Longest run time by partition, in minutes; None = no limit."""
    partition: str | None
    """The default partition."""


@dataclass(frozen=True, slots=True)
class Live:
    """Some elements of one job or array that Slurm still holds."""

    job: int
    name: str
    state: str
    """PENDING, RUNNING, COMPLETING, SUSPENDED, ..."""
    tasks: tuple[int, ...]
    """Indices of these elements; (0,) of a job that is no array."""
    reason: str
    """Why it waits, e.g. Priority, Dependency, QOSMaxJobsPerUserLimit."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How one element ended, each time that it was started."""

    state: str
    """Of its last start: COMPLETED, FAILED, TIMEOUT, OUT_OF_MEMORY, NODE_FAIL, PREEMPTED, CANCELLED, ..."""
    code: str
    """`exit:signal` as Slurm writes it."""
    node: str
    before: tuple[str, ...]
    """States of its earlier starts, oldest first: PREEMPTED, NODE_FAIL, REQUEUED."""

    def told(self) -> str:
        """Return why, in words."""
        exit_code, _, signum = self.code.partition(":")
        detail = f", signal {signum}" if signum not in ("", "0") else f", exit code {exit_code}"
        where = f", on {self.node}" if self.node and not self.node.startswith("None") else ""  # "None assigned"
        reasons = {
            "OUT_OF_MEMORY": MEMORY,
            "TIMEOUT": "it reached the time limit of its job; raise minutes, or lower shards_per_task",
            "NODE_FAIL": "its node failed",
            "PREEMPTED": "it was preempted",
            "CANCELLED": "it was cancelled",
        }
        return f"{reasons.get(self.state, 'its process ended')} ({self.state}{detail}{where})"


MEMORY = "it used more memory than it asked for; raise mem_gb"
# What Slurm writes into a job's log where it ended one for its memory; the state may say FAILED alone.
_MEMORY = re.compile(rb"oom.kill|exceeded (job )?memory limit", re.IGNORECASE)
_TAIL_BYTES = 4096


def out_of_memory(log: Path) -> bool:
    """Return whether the end of a job's log says that the job used too much memory."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return _MEMORY.search(file.read()) is not None
    except OSError:
        return False


def ask(*command: str, patient: bool = True) -> str:
    """Return what a command of Slurm prints; a busy controller is asked again. Raises UserError and WorkError."""
    for pause_s in (*(_PAUSES_S if patient else ()), None):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=False, env=_plain())
        except FileNotFoundError as error:
            raise UserError(
                f"The command {command[0]} was not found, so there is no Slurm here (or its module is not loaded); "
                "run on a login node of the cluster, or use the executor local."
            ) from error
        except subprocess.TimeoutExpired:
            said = f"timed out after {ANSWER_S} s"
        else:
            if done.returncode == 0:
                return done.stdout
            said = " ".join((done.stderr or done.stdout).split())
        if pause_s is None or not busy(said):
            break
        clock.sleep(pause_s)
    raise (BusyError if busy(said) else WorkError)(f"`{' '.join(command)[:80]}` failed: {said or 'without a word'}.")


def busy(said: str) -> bool:
    """Return whether a refusal means that the controller may answer later."""
    return any(word in said.lower() for word in _BUSY)


def full(said: str) -> bool:
    """Return whether sbatch refused because this user has too many jobs queued."""
    return any(word in said.lower() for word in _FULL)


def _plain() -> dict[str, str]:
    """Return an environment in which commands write times and lists in one form, and lists whole."""
    return {**os.environ, "SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}


def live(names: Sequence[str], patient: bool = True) -> list[Live]:
    """Return what Slurm holds of the jobs with these names, in one call; more only where that is refused for now."""
    return [job for job in queue(patient) if job.name in set(names)]


def queue(patient: bool = True) -> list[Live]:
    """Return all that Slurm holds of this user's jobs."""
    return list(_live(ask("squeue", "--noheader", f"--user={os.getuid()}", "--format=%F|%K|%j|%T|%r", patient=patient)))


def _live(text: str) -> Iterator[Live]:
    for line in filter(None, text.splitlines()):
        job, index, name, state, reason = line.split("|", 4)
        yield Live(int(job), name, state, indices(index), reason)


def indices(text: str) -> tuple[int, ...]:
    """Return the numbers that Slurm writes as "7", "0-3,5", "0-9:3" or "6-99%10"; (0,) for "N/A"."""
    numbers: list[int] = []
    for part in re.sub(r"%\d+$", "", text.strip("[]")).split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?(?::(\d+))?", part)
        if found:
            low, high, step = (int(g) if g else None for g in found.groups())
            assert low is not None
            numbers.extend(range(low, (low if high is None else high) + 1, step or 1))
    return tuple(numbers) or (0,)


def history(jobs: Sequence[int]) -> dict[tuple[int, int], Ended] | None:
    """Return how the elements of jobs ended, by (job, index), in one call; None where there is no accounting."""
    if not jobs:
        return {}
    command = ("sacct", "--noheader", "--parsable2", "--allocations", "--duplicates")
    fields = "--format=JobID,State,ExitCode,NodeList"
    try:
        text = ask(*command, f"--jobs={','.join(map(str, jobs))}", fields, patient=False)
    except (UserError, WorkError):
        return None
    starts: dict[tuple[int, int], list[list[str]]] = {}
    for line in filter(None, text.splitlines()):
        name, *rest = line.split("|")
        job, _, index = name.partition("_")
        for task in indices(index):
            starts.setdefault((int(job), task), []).append(rest)
    return {
        element: Ended(_word(rows[-1][0]), rows[-1][1], rows[-1][2], tuple(_word(row[0]) for row in rows[:-1]))
        for element, rows in starts.items()
    }


def _word(state: str) -> str:
    """Return "CANCELLED" for "CANCELLED by 1000"."""
    return state.partition(" ")[0]


def limits() -> Limits:
    """Return what the cluster takes, in three calls; without accounting the association's limits are unknown."""
    config = dict(re.findall(r"^(\w+)\s*= (.*)$", ask("scontrol", "show", "config"), re.MULTILINE))
    minutes: dict[str, int | None] = {}
    default = None
    for line in ask("sinfo", "--noheader", "--format=%P|%l").splitlines():
        name, _, longest = line.partition("|")
        minutes[name.rstrip("*")] = _minutes(longest)
        default = name.rstrip("*") if name.endswith("*") else default
    return Limits(
        array=max(1, int(config.get("MaxArraySize", "1001"))),
        jobs=int(config.get("MaxJobCount", "10000")),
        submit=_submit(),
        minutes=minutes,
        partition=default,
    )


def _submit() -> int | None:
    command = ("sacctmgr", "--noheader", "--parsable2", "show", "associations", f"user={getpass.getuser()}")
    try:
        text = ask(*command, "format=MaxSubmitJobs,GrpSubmitJobs", patient=False)
    except (UserError, WorkError):
        return None
    numbers = [int(n) for n in re.findall(r"\d+", text)]
    return min(numbers) if numbers else None


def _minutes(text: str) -> int | None:
    """Return the minutes in "2-12:00:00", "4:00:00" or "30:00"; None for infinite."""
    days, _, rest = text.rpartition("-")
    if not re.fullmatch(r"\d+(:\d+)*", rest):
        return None
    parts = [int(p) for p in rest.split(":")]
    hours, minutes = ([0, *parts] if len(parts) == 2 else parts)[:2] if len(parts) > 1 else (0, parts[0])
    return int(days or 0) * 1440 + hours * 60 + minutes


def cancel(jobs: Sequence[int]) -> None:
    """Call jobs back, in this order: what waits for the others first."""
    if jobs:
        ask("scancel", *map(str, jobs))


def element() -> str | None:
    """Return the job or array element that this process runs in, as Slurm names it; None outside of one."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def own() -> int | None:
    """Return the number of the job or array that this process runs in; None outside of one."""
    name = element()
    return int(name.partition("_")[0]) if name else None


def requeue(name: str) -> bool:
    """Put this element, and no other of its array, into the queue again; False where that can not be asked from here.

    Many sites have no scontrol on their compute nodes (submitit issue 1601): then the job just ends, and `advance`
    submits what it left.
    """
    try:
        ask("scontrol", "requeue", name, patient=False)
    except (UserError, WorkError):
        return False
    return True
