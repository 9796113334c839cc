"""Submitting: a stage's units become arrays of tasks, or MPI jobs, by submitit; each leaves a record in RUN/jobs/.

What a job is told stands in its script: the command, the run folder, the stage, the units. All else it reads from the
run folder. So submitit writes and submits the scripts and nothing is pickled: its pickles (one a task, read back from a
shared folder as code) would carry the same four words.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import submitit
from submitit.core.utils import FailedJobError

from toolkit.config.site import Resources, Site
from toolkit.data.stage import Kind, Stage
from toolkit.errors import UserError, WorkError
from toolkit.recipe import BY_NAME
from toolkit.run import clock, files, scheduler
from toolkit.run.job import ranges, share
from toolkit.run.run import Run

ADVANCE = "advance"
# -P: a folder `toolkit` where the user happens to stand must not take the place of the toolkit.
DANQING = (sys.executable, "-P", "-u", "-m", "toolkit")
# Characters of units in one script: the kernel takes 128 KiB in one argument.
UNITS_CHARS = 60_000
# Options of the environment that users set for all their jobs; what the site says wins over them.
_KEPT = ("ACCOUNT", "PARTITION", "QOS", "CONSTRAINT", "RESERVATION")
_PREFIXES = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "PMI_", "PMIX_", "SUBMITIT_")


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

    def all(self) -> list[int]:
        """Return its units, ascending."""
        return _listed(self.units)

    def share(self, task: int) -> Sequence[int]:
        """Return the units of one task."""
        return share(self.all(), task, self.tasks)


def _listed(text: str) -> list[int]:
    bounds = (piece.partition("-") for piece in text.split(",") if piece)
    return [u for low, _, high in bounds for u in range(int(low), int(high or low) + 1)]


def name(run: Run, stage: str) -> str:
    """Return the name of a stage's jobs: a run's jobs are told from all others by it, those of no record too."""
    key = hashlib.blake2b(os.fsencode(run.layout.root), digest_size=4).hexdigest()
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


class Submitter(submitit.SlurmExecutor):
    """submitit's executor with our command in place of its pickle: one script and one sbatch call a job or array."""

    def submit_script(self, command: str, elements: int) -> int:
        """Submit a command as a job, or as an array of so many elements; return the job's number."""
        if elements > 1:
            self.parameters["map_count"] = elements
        with environment(self.parameters):
            job = self._submit_command(command)
        for path in Path(self.folder).glob(".submission_file_*"):  # submitit keeps a link by the script's first name
            if path.is_symlink():
                files.remove(path)
        return int(job.job_id)

    def text(self, command: str, elements: int) -> str:
        """Return the script that `submit_script` would submit."""
        if elements > 1:
            self.parameters["map_count"] = elements
        return self._make_submission_file_text(command, "")


@contextmanager
def environment(parameters: dict[str, Any]) -> Iterator[None]:
    """Hide what a job inherits from the job that submits it, but not where Slurm's configuration lies.

    SLURM_* of the outer job makes the inner one fail (submitit issues 1726 and 1814); SBATCH_* wins over a script.
    """
    kept = {"SLURM_CONF", "SLURM_CLUSTERS"} | {f"SBATCH_{n}" for n in _KEPT if n.lower() not in parameters}
    hidden = {n: v for n, v in os.environ.items() if n.startswith(_PREFIXES) and n not in kept}
    for variable in hidden:
        del os.environ[variable]
    try:
        yield
    finally:
        os.environ.update(hidden)


def submitter(run: Run, stage: str, options: dict[str, Any] | None = None) -> Submitter:
    """Return what submits the jobs of a stage, with `options` of sbatch besides the site's; raises UserError."""
    check(run)
    try:
        executor = Submitter(files.private(run.layout.jobs), python=shlex.quote(sys.executable))
    except RuntimeError as error:
        raise UserError(
            "The command srun was not found, so there is no Slurm here (or its module is not loaded); "
            "run on a login node of the cluster, or use the executor local."
        ) from error
    executor.update_parameters(**parameters(run, stage, options or {}))
    return executor


def parameters(run: Run, stage: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return a job's parameters in submitit's words."""
    site = run.config.executor.site
    wants = site.of(stage)
    ranks = world(stage, wants)
    logs = run.layout.jobs if stage == ADVANCE else run.layout.logs(BY_NAME[stage])
    extra = [option[2:].partition("=") for option in wants.extra or ()]
    given: dict[str, Any] = {
        "job_name": name(run, stage),
        "partition": wants.partition,
        "account": wants.account,
        "qos": wants.qos,
        "constraint": wants.constraint,
        "gres": wants.gres or None,
        "time": wants.minutes,
        "mem": None if wants.mem_gb is None else f"{round(wants.mem_gb * 1024)}MB",
        "nodes": wants.nodes or 1 if ranks > 1 else 1,
        "ntasks_per_node": wants.ranks or 1 if ranks > 1 else 1,
        "cpus_per_task": wants.cpus or 1,
        "array_parallelism": wants.throttle or sys.maxsize,
        "setup": [*(wants.setup or ()), *threads(stage, wants)],
        "wckey": None,  # submitit's default, which some sites refuse (its issues 1632 and 1758)
        "stderr_to_stdout": True,
        "use_srun": False,
        "additional_parameters": {
            "output": str(run.layout.root / logs / ("%x-%j.log" if stage == ADVANCE else "%A_%a.log")),
            # Without srun the batch process is the task itself; with it the signal goes to every rank.
            "signal": f"{'' if ranks > 1 else 'B:'}USR2@{site.lead_s}",
            "requeue": True,
            **{option: value if equals else True for option, equals, value in extra},
            **options,
        },
    }
    return {key: value for key, value in given.items() if value is not None or key in ("wckey", "time")}


def threads(stage: str, wants: Resources) -> list[str]:
    """Return the lines that keep libraries to the processors that a task asked for."""
    cores = wants.cpus or 1
    pooled = stage != ADVANCE and BY_NAME[stage].kind is Kind.MAP
    return [f"export OMP_NUM_THREADS={1 if pooled else cores}", f"export SRUN_CPUS_PER_TASK={cores}"]


def world(stage: str, wants: Resources) -> int:
    """Return the MPI ranks of a stage's jobs."""
    collective = stage != ADVANCE and BY_NAME[stage].kind is Kind.COLLECTIVE
    return (wants.nodes or 1) * (wants.ranks or 1) if collective else 1


def command(run: Run, stage: Stage, units: Sequence[int], tasks: int) -> str:
    """Return the shell line that a task runs."""
    site = run.config.executor.site
    ranks = world(stage.name, site.of(stage.name))
    words = [*DANQING, "task", str(run.layout.root), stage.name, "--units", ranges(units)]
    line = shlex.join(words) + (f' --part "$SLURM_ARRAY_TASK_ID/{tasks}"' if tasks > 1 else "")
    return f"exec {launcher(site, ranks)}{line}"


def launcher(site: Site, ranks: int) -> str:
    """Return what starts the ranks, before the command; srun knows their number from the job."""
    if ranks == 1:
        return ""
    return f"{site.mpi} " if Path(shlex.split(site.mpi)[0]).name == "srun" else f"{site.mpi} -n {ranks} "


def submit(run: Run, stage: Stage, units: Sequence[int], tasks: int, options: dict[str, Any]) -> Record:
    """Submit some units of a stage as one array of tasks, or one job."""
    files.make(run.layout.logs(stage))
    job = _submit(submitter(run, stage.name, options), command(run, stage, units, tasks), tasks)
    return write(run, Record(job=job, stage=stage.name, units=ranges(units), tasks=tasks, submitted=clock.now()))


def follow(run: Run, jobs: Sequence[int], until: str | None, begin_s: int = 0) -> Record:
    """Submit the small job that decides what comes next, once these have ended, however they end."""
    words = [*DANQING, "advance", str(run.layout.root)]
    words += ["--until", until] if until else []
    options = {"dependency": f"afterany:{':'.join(map(str, jobs))}"} if jobs else {}
    options |= {"begin": f"now+{begin_s}"} if begin_s else {}
    job = _submit(submitter(run, ADVANCE, options), f"exec {shlex.join(words)}", 1)
    return write(run, Record(job=job, stage=ADVANCE, units="", tasks=1, submitted=clock.now()))


_PAUSES_S = (2, 8, 30, 60)


def _submit(executor: Submitter, line: str, tasks: int) -> int:
    """Submit a script; a busy controller is asked again."""
    for pause_s in (*_PAUSES_S, None):
        try:
            return executor.submit_script(line, tasks)
        except FailedJobError as error:
            said = " ".join(str(error).split())
            if pause_s is None or not scheduler.busy(said):
                raise WorkError(
                    f"sbatch refused a job: {said or 'without a word'}. Mend the site's options (executor.site: "
                    "partition, account, qos, minutes, mem_gb ...), then run the same command again."
                ) from error
            clock.sleep(pause_s)
    raise AssertionError("unreachable")


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
