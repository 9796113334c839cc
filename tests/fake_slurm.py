"""A Slurm without a cluster: sbatch, squeue, sacct and the others over one JSON file, in the words of the real ones.

Nothing runs by itself: a test starts an element, runs its script or its own deed in its place, and says how it ended.
The commands refuse what the real ones (22.05) refuse. Every call is kept, with the variables of Slurm that it saw.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

COMMANDS = ("sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo", "sacctmgr", "srun")
LONGEST_ARRAY_TEXT = 4096
MOVING = ("PENDING", "RUNNING", "COMPLETING", "SUSPENDED")


class Element(NamedTuple):
    """A job, or one task of an array."""

    job: int
    index: int


class Refused(Exception):
    """What a command writes to stderr before it ends with 1."""


# ---------------------------------------------------------------------------------------------------- the state


def blank() -> dict[str, Any]:
    return {
        "next": 100,
        "config": {"MaxArraySize": 1001, "MaxJobCount": 10000},
        "submit": None,  # the association's MaxSubmitJobs
        "partitions": {"main*": "4:00:00", "long": "infinite"},
        "accounting": True,
        "refusals": {},  # command -> texts, one for each call that is to fail
        "jobs": {},
        "calls": [],
    }


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[dict[str, Any]]:
    """Hold the state, alone, and keep what is changed in it."""
    with (folder / "state.json").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        state = json.loads(text) if text else blank()
        yield state
        if (new := json.dumps(state)) != text:
            file.truncate(0)
            file.write(new)


def tasks(job: dict[str, Any]) -> list[int]:
    return [int(i) for i in job["state"]]


def waits(state: dict[str, Any], job: dict[str, Any]) -> bool:
    """Whether some job that this one comes after (afterany) moves."""
    others = (state["jobs"].get(number) for number in job["after"])
    return any(s in MOVING for other in others if other for s in other["state"].values())


def queued(state: dict[str, Any]) -> int:
    return sum(s in MOVING for job in state["jobs"].values() for s in job["state"].values())


def write_down(job: dict[str, Any], index: int, ending: str, code: str, node: str = "n1") -> None:
    job["starts"].setdefault(str(index), []).append([ending, code, node])


# ------------------------------------------------------------------------------------------------- the commands


def sbatch(state: dict[str, Any], words: list[str], env: dict[str, str]) -> str:
    script = Path(words[-1]).read_text(encoding="utf-8")
    options = read_options(script)
    options |= {n[7:].lower(): v for n, v in env.items() if n.startswith("SBATCH_")}  # they win over the script
    partition = options.get("partition")
    if partition and partition not in {name.rstrip("*") for name in state["partitions"]}:
        raise Refused(f"invalid partition specified: {partition}\n{FAILED}Invalid partition name specified")
    array = options.get("array")
    if array and len(array.encode()) > LONGEST_ARRAY_TEXT:
        raise Refused(f"{FAILED}Pathname of a file, directory or other parameter too long")
    chosen = listed(array) if array else [0]
    if max(chosen) >= state["config"]["MaxArraySize"]:
        raise Refused(f"{FAILED}Invalid job array specification")
    if queued(state) + len(chosen) > state["config"]["MaxJobCount"]:
        raise Refused(f"Slurm temporarily unable to accept job, sleeping and retrying\n{FAILED}Resource temporarily")
    if state["submit"] is not None and queued(state) + len(chosen) > state["submit"]:
        raise Refused(f"AssocMaxSubmitJobLimit\n{FAILED}Job violates accounting/QOS policy (job submit limit)")
    after = re.findall(r"\d+", options.get("dependency", ""))
    number, state["next"] = state["next"], state["next"] + 1
    state["jobs"][str(number)] = {
        "name": options.get("job-name", "sbatch"),
        "user": str(os.getuid()),
        "script": script,
        "options": options,
        "array": bool(array),
        "after": after,
        "state": {str(i): "PENDING" for i in chosen},
        "starts": {},
    }
    return f"Submitted batch job {number}\n"


FAILED = "sbatch: error: Batch job submission failed: "


def read_options(script: str) -> dict[str, str]:
    """Return what the #SBATCH lines say, up to the first line that is no comment, quoted as in a shell."""
    options: dict[str, str] = {}
    for line in script.splitlines():
        if line.startswith("#SBATCH"):
            for word in shlex.split(line[7:], comments=True):
                name, _, value = word.removeprefix("--").partition("=")
                options[name] = value
        elif line and not line.startswith("#"):
            break
    return options


def listed(text: str) -> list[int]:
    """Return the indices of --array=0-99%10 or 1,5-7."""
    bounds = (piece.split("-") for piece in text.partition("%")[0].split(","))
    return [i for piece in bounds for i in range(int(piece[0]), int(piece[-1]) + 1)]


def folded(indices: Sequence[int]) -> str:
    """Write indices as Slurm does: 0-3,7."""
    runs: list[list[int]] = []
    for i in sorted(indices):
        if runs and i == runs[-1][-1] + 1:
            runs[-1].append(i)
        else:
            runs.append([i])
    return ",".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs)


def squeue(state: dict[str, Any], words: list[str], env: dict[str, str]) -> str:
    given = options_of(words)
    assert given["format"] == "%F|%K|%j|%T|%r", given
    lines: list[str] = []
    for number, job in state["jobs"].items():
        if job["user"] != given["user"]:
            continue
        pending = [i for i in tasks(job) if job["state"][str(i)] == "PENDING"]
        throttle = job["options"].get("array", "").partition("%")[2]
        own = folded(pending) + (f"%{throttle}" if throttle else "") if job["array"] else "N/A"
        reason = "Dependency" if waits(state, job) else "BeginTime" if "begin" in job["options"] else "Priority"
        lines += [f"{number}|{own}|{job['name']}|PENDING|{reason}"] if pending else []
        at_work = [i for i in tasks(job) if job["state"][str(i)] in MOVING[1:]]
        lines += [f"{number}|{i if job['array'] else 'N/A'}|{job['name']}|{job['state'][str(i)]}|None" for i in at_work]
    return "".join(f"{line}\n" for line in lines)


def sacct(state: dict[str, Any], words: list[str], env: dict[str, str]) -> str:
    if not state["accounting"]:
        raise Refused("Slurm accounting storage is disabled")
    given, lines = options_of(words), []
    assert given["format"] == "JobID,State,ExitCode,NodeList", given
    assert {"parsable2", "allocations", "duplicates", "noheader"} <= given.keys()
    for number in given["jobs"].split(","):
        job = state["jobs"].get(number)
        for i in tasks(job) if job else ():
            name = f"{number}_{i}" if job["array"] else number
            lines += [f"{name}|{'|'.join(start)}" for start in job["starts"].get(str(i), [])]
            if job["state"][str(i)] == "RUNNING":
                lines.append(f"{name}|RUNNING|0:0|n1")
        pending = [i for i in tasks(job) if job["state"][str(i)] == "PENDING"] if job else []
        if pending:
            name = f"{number}_[{folded(pending)}]" if job["array"] else number
            lines.append(f"{name}|PENDING|0:0|None assigned")
    return "".join(f"{line}\n" for line in lines)


def scontrol(state: dict[str, Any], words: list[str], env: dict[str, str]) -> str:
    if words[:2] == ["show", "config"]:
        lines = [f"{name:<23} = {value}" for name, value in state["config"].items()]
        return "Configuration data as of 2026-01-01T00:00:00\n" + "\n".join(lines) + "\n"
    assert words[0] == "requeue", words
    number, _, index = words[1].partition("_")
    job = state["jobs"][number]
    for i in [int(index)] if index else tasks(job):
        job["state"][str(i)] = "PENDING"
        write_down(job, i, "REQUEUED", "0:0")
    return ""


def scancel(state: dict[str, Any], words: list[str], env: dict[str, str]) -> str:
    for number in words:
        job = state["jobs"][number]
        for i in tasks(job):
            if job["state"][str(i)] in MOVING:
                node = "n1" if job["state"][str(i)] != "PENDING" else "None assigned"
                job["state"][str(i)] = "CANCELLED"
                write_down(job, i, "CANCELLED by 0", "0:0", node)
    return ""


def sinfo(state: dict[str, Any], words: list[str], env: dict[str, str]) -> str:
    assert options_of(words)["format"] == "%P|%l", words
    return "".join(f"{name}|{longest}\n" for name, longest in state["partitions"].items())


def sacctmgr(state: dict[str, Any], words: list[str], env: dict[str, str]) -> str:
    if not state["accounting"]:
        raise Refused("You are not running a supported accounting_storage plugin")
    assert words[-1] == "format=MaxSubmitJobs,GrpSubmitJobs", words
    return f"{'' if state['submit'] is None else state['submit']}|\n"


def srun(state: dict[str, Any], words: list[str], env: dict[str, str]) -> str:
    raise Refused("srun: there are no nodes here")


def options_of(words: list[str]) -> dict[str, str]:
    return {n: v for n, _, v in (word.removeprefix("--").partition("=") for word in words)}


def call(folder: Path, command: str, words: list[str], env: dict[str, str]) -> tuple[int, str, str]:
    """Answer one command: its exit code, what it prints, and what it prints to stderr."""
    with opened(folder) as state:
        seen = {n: v for n, v in env.items() if n.startswith(("SLURM", "SBATCH", "PMI", "SUBMITIT"))}
        state["calls"].append([command, words, seen])
        try:
            if refusals := state["refusals"].get(command):
                raise Refused(refusals.pop(0))
            return 0, globals()[command](state, words, env), ""
        except Refused as refused:
            return 1, "", f"{command}: error: {refused}\n"


def main() -> None:
    """Be the command by whose name this was started."""
    here = Path(sys.argv[0])
    code, out, err = call(here.parents[1], here.name, sys.argv[1:], dict(os.environ))
    sys.stdout.write(out)
    sys.stderr.write(err)
    sys.exit(code)


# ------------------------------------------------------------------------------------------------ the test's side


class Slurm:
    """The fake as a test holds it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.slept: list[float] = []  # seconds that somebody waited, where the clock is not the real one
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        lines = (f"#!{sys.executable} -IS", "import sys", f"sys.path.insert(0, {str(Path(__file__).parent)!r})")
        for name in COMMANDS:
            (self.bin / name).write_text("\n".join((*lines, "import fake_slurm", "fake_slurm.main()", "")))
            (self.bin / name).chmod(0o755)

    def change(self, **values: Any) -> None:
        """Change what the cluster is like: submit, accounting, partitions, MaxArraySize, MaxJobCount."""
        with opened(self.folder) as state:
            for name, value in values.items():
                (state["config"] if name in state["config"] else state)[name] = value

    def refuse(self, command: str, text: str, times: int = 1) -> None:
        """Let a command fail so many times."""
        with opened(self.folder) as state:
            state["refusals"].setdefault(command, []).extend([text] * times)

    def calls(self, command: str) -> list[list[str]]:
        """The words of each call of a command so far."""
        with opened(self.folder) as state:
            return [words for name, words, _ in state["calls"] if name == command]

    def seen(self, command: str) -> dict[str, str]:
        """The variables of Slurm that the last call of a command saw."""
        with opened(self.folder) as state:
            return next(dict(env) for name, _, env in reversed(state["calls"]) if name == command)

    def jobs(self) -> dict[int, dict[str, Any]]:
        """All jobs by number."""
        with opened(self.folder) as state:
            return {int(number): job for number, job in state["jobs"].items()}

    def job(self, number: int) -> dict[str, Any]:
        return self.jobs()[number]

    def able(self) -> list[Element]:
        """The elements that could start now: nothing before them moves; --begin is taken to have passed."""
        with opened(self.folder) as state:
            free = {n: job for n, job in state["jobs"].items() if not waits(state, job)}
            return [Element(int(n), i) for n, job in free.items() for i in tasks(job) if state_of(job, i) == "PENDING"]

    def start(self, element: Element) -> dict[str, str]:
        """Start an element; return its environment."""
        with opened(self.folder) as state:
            job = state["jobs"][str(element.job)]
            assert not waits(state, job), f"{element} depends on jobs that move"
            assert state_of(job, element.index) == "PENDING", f"{element} is {state_of(job, element.index)}"
            job["state"][str(element.index)] = "RUNNING"
            again = len(job["starts"].get(str(element.index), []))
        env = {"SLURM_JOB_ID": str(element.job), "SLURM_CPUS_PER_TASK": job["options"].get("cpus-per-task", "1")}
        env |= {"SLURM_JOB_PARTITION": "main", "SLURMD_NODENAME": "n1", "SLURM_CONF": "/etc/slurm/slurm.conf"}
        if job["array"]:
            env |= {"SLURM_ARRAY_JOB_ID": str(element.job), "SLURM_ARRAY_TASK_ID": str(element.index)}
            env |= {"SLURM_JOB_ID": str(10_000 + element.job * 100 + element.index)}
        return env | ({"SLURM_RESTART_COUNT": str(again)} if again else {})

    def end(self, element: Element, ending: str = "COMPLETED", code: str = "0:0", again: bool = False) -> None:
        """Let an element end; `again`: Slurm puts it back into the queue."""
        with opened(self.folder) as state:
            job = state["jobs"][str(element.job)]
            if state_of(job, element.index) in ("RUNNING", "PENDING"):
                job["state"][str(element.index)] = "PENDING" if again else ending.partition(" ")[0]
                write_down(job, element.index, ending, code)

    def end_all(self, number: int, ending: str = "COMPLETED", code: str = "0:0") -> None:
        """Let all elements of a job end in one way."""
        for index in tasks(self.job(number)):
            self.end(Element(number, index), ending, code)

    def forget(self) -> None:
        """Let Slurm know nothing of any job that was, nor the test of any call."""
        with opened(self.folder) as state:
            state["jobs"].clear()
            state["calls"].clear()

    def execute(self, element: Element) -> subprocess.CompletedProcess[str]:
        """Run an element's script as slurmd does, and let it end as it ends."""
        env = {**os.environ, **self.start(element)}
        script = self.folder / f"slurm_script.{element.job}"
        script.write_text(self.job(element.job)["script"], encoding="utf-8")
        done = subprocess.run(["bash", script], env=env, capture_output=True, text=True, timeout=600, check=False)
        ending = ("FAILED", f"{done.returncode}:0") if done.returncode else ("COMPLETED", "0:0")
        self.end(element, *ending)
        return done


def state_of(job: dict[str, Any], index: int) -> str:
    return str(job["state"][str(index)])
