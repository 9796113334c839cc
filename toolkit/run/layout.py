"""Every path of a run folder; nobody else joins paths.

RUN/run.yaml inputs.jsonl earlier.jsonl lists/
RUN/30_fetch/data/000/000012.parquet    published files only
RUN/30_fetch/done/000/000012.json       the mark, written last
RUN/30_fetch/done.parquet               the marks of a finished stage, folded
RUN/30_fetch/work/000012.<attempt>/     everything unfinished
RUN/30_fetch/logs/
RUN/jobs/                               what was submitted to a scheduler
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from toolkit.data.stage import Stage, stem

PER_FOLDER = 1000


def relative(unit: int, suffix: str) -> str:
    """Return a unit's file name below data/ or done/, in sub-folders of 1,000."""
    return f"{unit // PER_FOLDER:03d}/{stem(unit)}{suffix}"


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one run folder."""

    root: Path

    @property
    def run_yaml(self) -> Path:
        """The resolved configuration, its digest, and versions."""
        return self.root / "run.yaml"

    @property
    def inputs(self) -> Path:
        """The raw input files, one JSON line each."""
        return self.root / "inputs.jsonl"

    @property
    def earlier(self) -> Path:
        """What dedup.earlier names, one JSON line each; absent where that is nothing."""
        return self.root / "earlier.jsonl"

    @property
    def lists(self) -> Path:
        """Copies of the lists that the configuration names."""
        return self.root / "lists"

    @property
    def lock(self) -> Path:
        """Held by the process that drives the run on this machine."""
        return self.root / ".lock"

    @property
    def jobs(self) -> Path:
        """What was submitted to a scheduler: the scripts, and a record of each; open to nobody else."""
        return self.root / "jobs"

    def job(self, number: int) -> Path:
        """The record of one submitted job or array."""
        return self.jobs / f"{number}.json"

    @property
    def cancelled(self) -> Path:
        """Its presence says that the user called the jobs of this run back."""
        return self.root / "cancelled"

    @property
    def cleaned(self) -> Path:
        """Names the stages whose data was given up to make room."""
        return self.root / "cleaned.json"

    @property
    def funnel(self) -> Path:
        """The funnel as JSON."""
        return self.root / "funnel.json"

    @property
    def report(self) -> Path:
        """The report page."""
        return self.root / "report.html"

    def stage(self, stage: Stage) -> Path:
        """The stage's folder."""
        return self.root / stage.folder

    def data(self, stage: Stage) -> Path:
        """Published files only."""
        return self.stage(stage) / "data"

    def work(self, stage: Stage) -> Path:
        """Everything unfinished."""
        return self.stage(stage) / "work"

    def logs(self, stage: Stage) -> Path:
        """What failed attempts and jobs said."""
        return self.stage(stage) / "logs"

    def file(self, stage: Stage, path: str) -> Path:
        """A published file by its path below data/."""
        return self.data(stage) / path

    def mark(self, stage: Stage, unit: int) -> Path:
        """The mark of a finished unit."""
        return self.stage(stage) / "done" / relative(unit, ".json")

    def folded(self, stage: Stage) -> Path:
        """The marks of a finished stage in one table."""
        return self.stage(stage) / "done.parquet"

    def attempt(self, stage: Stage, unit: int, token: str) -> Path:
        """The folder of one attempt at a unit."""
        return self.work(stage) / f"{stem(unit)}.{token}"

    def winner(self, stage: Stage, unit: int) -> Path:
        """The name that one attempt takes before anything of it is published."""
        return self.work(stage) / f"{stem(unit)}.winner"

    def parts(self, stage: Stage, unit: int, key: str) -> Path:
        """The checkpoint of a unit; `key` binds it to the unit's inputs."""
        return self.work(stage) / f"{stem(unit)}.parts-{key}"

    def failure(self, stage: Stage, unit: int) -> Path:
        """Why the last attempt at a unit failed."""
        return self.logs(stage) / f"{stem(unit)}.failed.json"
