"""Submitting: a stage's units become arrays of tasks, or MPI jobs, by submitit; each leaves a record in RUN/jobs/.

What a job is told stands in its script: the command, the run folder, the stage, the units. All else it reads from the
run folder. So submitit writes and submits the scripts and nothing is pickled: its pickles (one a task, read back from a
shared folder as code) would carry the same four words.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from toolkit.config.site import Resources, Site
from toolkit.data.stage import Kind, Stage
from toolkit.errors import UserError, WorkError
from toolkit.recipe import BY_NAME
from toolkit.run import clock, files, scheduler
from toolkit.run.records import ADVANCE, Record, check, name, ranges, records, write
from toolkit.run.run import Run

# -P: a folder `toolkit` where the user happens to stand must not take the place of the toolkit.
DANQING = (sys.executable, "-P", "-u", "-m", "toolkit")
# Seconds for one call of sbatch.
SUBMIT_S = 300
# Characters of units in one script: the kernel takes 128 KiB in one argument.
UNITS_CHARS = 60_000
# Options of the environment that users set for all their jobs; what the site says wins over them.
_KEPT = ("ACCOUNT", "PARTITION", "QOS", "CONSTRAINT", "RESERVATION")
_PREFIXES = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "PMI_", "PMIX_", "SUBMITIT_")


class Submitter(submitit.SlurmExecutor):
    """submitit's executor with our command in place of its pickle: one script and one sbatch call a job or array."""

    def submit_script(self, command: str, elements: int) -> int:
        """Submit a command as a job, or as an array of so many elements; return the job's number."""
        self._array(elements)
        try:
            with environment(self.parameters):
                return int(self._submit_command(command).job_id)
        finally:  # submitit leaves a script that was refused, and a link by the first name of one that was not
            for path in Path(self.folder).glob(".submission_file_*"):
                files.remove(path)

    def _array(self, elements: int) -> None:
        if elements > 1:
            self.parameters["map_count"] = elements
            given = self.parameters["additional_parameters"]
            given["output"] = given["output"].removesuffix("%j.log") + "%A_%a.log"

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        """Return the call of sbatch, which itself tries again for two minutes where the controller's table is full."""
        return ["timeout", str(SUBMIT_S), *super()._make_submission_command(submission_file_path)]

    def text(self, command: str, elements: int) -> str:
        """Return the script that `submit_script` would submit."""
        self._array(elements)
        return self._make_submission_file_text(command, "")


@contextmanager
def environment(parameters: dict[str, Any]) -> Iterator[None]:
    """Hide what a job inherits from the job that submits it, but not where Slurm's configuration lies.

    SLURM_* of the outer job makes the inner one fail (submitit issues 1726 and 1814); SBATCH_* wins over a script.
    """
    said = {*parameters, *parameters.get("additional_parameters", ())}
    kept = {"SLURM_CONF", "SLURM_CLUSTERS"} | {f"SBATCH_{n}" for n in _KEPT if n.lower() not in said}
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
        "partition": wants.partition or None,
        "account": wants.account or None,
        "qos": wants.qos or None,
        "constraint": wants.constraint or None,
        "gres": wants.gres or None,
        "time": wants.minutes,
        "mem": None if wants.mem_gb is None else f"{round(wants.mem_gb * 1024)}MB",
        "nodes": wants.nodes or 1 if ranks > 1 else 1,
        "ntasks_per_node": wants.ranks or 1 if ranks > 1 else 1,
        "cpus_per_task": wants.cpus or 1,
        "array_parallelism": wants.throttle or sys.maxsize,
        # Until Python listens the warning would kill the shell; what is ignored stays so beyond exec.
        "setup": ["trap '' USR2", *(wants.setup or ()), *threads(stage, wants)],
        "wckey": None,  # submitit's default, which some sites refuse (its issues 1632 and 1758)
        "stderr_to_stdout": True,
        "use_srun": False,
        "additional_parameters": {
            "output": str(run.layout.root / logs / ("%x-%j.log" if stage == ADVANCE else "%j.log")),
            "signal": f"{_warning(site, ranks)}@{site.lead_s}",
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
    return f"{site.mpi} " if _by_srun(site) else f"{site.mpi} -n {ranks} "


def _warning(site: Site, ranks: int) -> str:
    """Return the signal that announces the time limit: to every rank where srun starts them, else to the batch process.

    That is the task itself, or mpiexec, which hands SIGTERM on to its ranks and would die of SIGUSR2.
    """
    if ranks == 1:
        return "B:USR2"
    return "USR2" if _by_srun(site) else "B:TERM"


def _by_srun(site: Site) -> bool:
    return Path(shlex.split(site.mpi)[0]).name == "srun"


def submit(run: Run, stage: Stage, units: Sequence[int], tasks: int, options: dict[str, Any]) -> Record:
    """Submit some units of a stage as one array of tasks, or one job."""
    files.make(run.layout.logs(stage))
    job = _submit(run, stage.name, command(run, stage, units, tasks), tasks, options)
    return write(run, Record(job=job, stage=stage.name, units=ranges(units), tasks=tasks, submitted=clock.now()))


def follow(run: Run, jobs: Sequence[int], until: str | None, begin_s: int = 0) -> Record:
    """Submit the small job that decides what comes next, once these have ended, however they end."""
    words = [*DANQING, "advance", str(run.layout.root)]
    words += ["--until", until] if until else []
    options = {"dependency": f"afterany:{':'.join(map(str, jobs))}"} if jobs else {}
    options |= {"begin": f"now+{begin_s}"} if begin_s else {}
    job = _submit(run, ADVANCE, f"exec {shlex.join(words)}", 1, options)
    return write(run, Record(job=job, stage=ADVANCE, units="", tasks=1, submitted=clock.now(), until=until or ""))


_PAUSES_S = (2, 8, 30, 60)


def _submit(run: Run, stage: str, line: str, tasks: int, options: dict[str, Any]) -> int:
    """Submit a script; a busy controller is asked again."""
    executor = submitter(run, stage, options)
    said = ""
    for pause_s in (0, *_PAUSES_S):
        if pause_s:
            clock.sleep(pause_s)
            if job := _lost(run, stage):
                return job
        try:
            return executor.submit_script(line, tasks)
        except (FailedJobError, FailedSubmissionError) as error:
            said = _said(error)
            if scheduler.full(said):
                raise scheduler.FullError(f"sbatch refused a job: {said}. Run the same command again later.") from error
            if not scheduler.busy(said):
                raise WorkError(
                    f"sbatch refused a job: {said}. Mend the site's options (executor.site: "
                    "partition, account, qos, minutes, mem_gb ...), then run the same command again."
                ) from error
    raise scheduler.BusyError(f"sbatch could not submit a job: {said}. Run the same command again later.")


def _said(error: Exception) -> str:
    late = getattr(error.__cause__, "returncode", 0) == 124  # of timeout(1)
    return " ".join(str(error).split()).rstrip(".") or (f"timed out after {SUBMIT_S} s" if late else "without a word")


def _lost(run: Run, stage: str) -> int | None:
    """Return the job that was submitted although sbatch did not say so: an answer may be lost where its job is not."""
    known = {scheduler.own(), *(record.job for record in records(run))}
    return max((m.job for m in scheduler.live([name(run, stage)]) if m.job not in known), default=None)
