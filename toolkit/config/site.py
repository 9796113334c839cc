"""What a cluster is like, and what the jobs of each stage ask of it; never a threshold, never part of the digest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator, model_validator

from toolkit.config.section import Section

# What the small job that decides what comes next needs; partition, account, qos and the like are the site's.
_ADVANCE = {"cpus": 1, "mem_gb": 4.0, "minutes": 30, "gres": "", "nodes": 1, "ranks": 1}


# Options of sbatch that carry the toolkit's own promises.
_OURS = frozenset(("output", "error", "open-mode", "signal", "array", "job-name", "dependency", "begin", "requeue"))


class Resources(Section):
    """What a job asks of the scheduler; null = as the site says, and there as the cluster does without being asked.

    An empty string takes back what the site says.
    """

    partition: str | None = None
    """`--partition`."""

    account: str | None = None
    """`--account`."""

    qos: str | None = None
    """`--qos`."""

    constraint: str | None = None
    """`--constraint`."""

    gres: str | None = None
    """`--gres`, e.g. gpu:1."""

    cpus: int | None = Field(None, ge=1)
    """Processors of one task (of one rank, in MPI stages); a task works on so many shards at once. null = 1."""

    mem_gb: float | None = Field(None, gt=0)
    """`--mem`: memory of a task on a node, in 2^30 bytes."""

    minutes: int | None = Field(None, ge=1)
    """`--time`: a task that reaches it is stopped, keeps what is finished, and goes on in the queue again."""

    nodes: int | None = Field(None, ge=1)
    """Nodes of an MPI job; read by dedup and merge. null = 1."""

    ranks: int | None = Field(None, ge=1)
    """MPI ranks on each node; read by dedup and merge. null = 1."""

    throttle: int | None = Field(None, ge=1)
    """Tasks of an array that run at one time (`--array=0-99%throttle`); null = as many as the cluster lets run."""

    shards_per_task: int | None = Field(None, ge=1)
    """Shards that one task works through; null = as many as take about 20 minutes, measured or estimated."""

    extra: tuple[str, ...] | None = None
    """Further options of sbatch, each `--name` or `--name=value`."""

    setup: tuple[str, ...] | None = None
    """Lines of shell before the task: `module load ...`, `source .../activate`. They are trusted."""

    @field_validator("extra")
    @classmethod
    def _long(cls, extra: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for option in extra or ():
            if not option.startswith("--") or any(c.isspace() for c in option.partition("=")[0]) or "\n" in option:
                raise ValueError(f"{option!r} is not of the form --name or --name=value")
            if option[2:].partition("=")[0] in _OURS:
                raise ValueError(f"{option!r} is set by the toolkit itself, which relies on it")
        return extra

    @field_validator("partition", "account", "qos", "constraint", "gres")
    @classmethod
    def _line(cls, text: str | None) -> str | None:
        if text is not None and not text.isprintable():
            raise ValueError("it must be one line of printable text")
        return text


class Site(Resources):
    """A cluster: what all jobs ask for, and where a stage asks for something else."""

    mpi: str = "srun --mpi=pmi2"
    """What starts the ranks of an MPI job: `srun --mpi=pmi2` serves the mpich wheel; `mpiexec` (of that wheel, or the
    system's), with `-n` and the number of ranks added, serves where srun can not."""

    advance: bool = True
    """Whether a small job behind each stage submits the next one. false where compute nodes may not submit: then all
    stages are submitted at once, each behind the one before, and `danqing run` again picks up what is missing."""

    lead_s: int = Field(120, ge=10)
    """Seconds before the time limit at which a task is told to stop (Slurm may do so up to 60 s earlier)."""

    backoff_s: int = Field(60, ge=0)
    """Seconds before units that failed are tried again; twice as long at each further try, at most an hour."""

    stages: Mapping[str, Resources] = {}
    """What a stage (or `advance`) asks for where it is not what is said above, by its name."""

    @model_validator(mode="after")
    def _warned(self) -> Site:
        for stage, wants in {"": self, **self.stages}.items():
            if wants.minutes is not None and wants.minutes * 60 <= self.lead_s:
                where = f"stages.{stage}.minutes" if stage else "minutes"
                raise ValueError(f"{where} is {wants.minutes}, but lead_s asks to stop {self.lead_s} s before the end")
        return self

    def of(self, stage: str) -> Resources:
        """Return what the jobs of a stage ask for; fields that nobody set are null."""
        merged: dict[str, Any] = {}
        small = _ADVANCE if stage == "advance" else {}
        for layer in (self._own(), small, _given(self.stages.get(stage))):
            merged |= layer
        return Resources.model_validate(merged)

    def _own(self) -> dict[str, Any]:
        return {name: value for name, value in _given(self).items() if name in Resources.model_fields}


def _given(section: Section | None) -> dict[str, Any]:
    fields = type(section).model_fields if section is not None else ()
    return {name: value for name in fields if (value := getattr(section, name)) is not None}
