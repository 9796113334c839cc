"""The JSON that the commands print, as types: docs/formats.md is made of them, and tests hold real output against them.

Where a command prints what the toolkit keeps as a type of its own (a row of the plan or of the funnel, a problem that
verify found), that type is the schema.
"""

from __future__ import annotations

from typing import Any, TypedDict

from toolkit.data.stage import FunnelRow
from toolkit.run.plan import StagePlan
from toolkit.run.verify import Problem


class StageStatus(TypedDict):
    """How far one stage is. Units are shards, for dedup batches, for unique parts of the ids; export has one more,
    which writes card and manifest."""

    stage: str
    """Name of the stage."""
    units: int
    """Units of the stage."""
    done: int
    """Units with a valid mark."""
    stale: int
    """Units whose mark no longer fits the stage's version or their input, or whose input is not valid itself; the next
    run redoes them."""
    failed: int
    """Units that are not done and whose last attempt failed."""
    rows_in: int
    """Rows that the finished units read."""
    rows_out: int
    """Rows that the finished units left."""
    bytes: int
    """Bytes that the finished units published."""
    seconds: float
    """Seconds that the finished units took, added up."""
    damages: int
    """Bad records and files that the finished units passed over."""


class Damage(TypedDict):
    """A bad record or file that was passed over."""

    stage: str
    """Name of the stage."""
    unit: int
    """Unit that met it."""
    where: str
    """The file, and the offset or row in it."""
    what: str
    """What is wrong with it."""


class Failure(TypedDict):
    """A unit whose last attempt failed and that is not done since."""

    stage: str
    """Name of the stage."""
    unit: int
    """The unit."""
    reason: str
    """Why it failed, in one line."""
    log: str
    """Path of the file with the traceback."""


class Status(TypedDict):
    """The state of a run."""

    run_dir: str
    """Path of the run folder."""
    digest: str
    """Config digest, 32 hex digits."""
    shards: int
    """Shards of the run."""
    batches: int
    """Batches that are deduplicated apart."""
    complete: bool
    """Whether every unit of every stage is done."""
    stages: list[StageStatus]
    """One entry a stage, in order."""
    funnel: list[FunnelRow]
    """One entry a step, in order."""
    damages: int
    """Bad records and files passed over, in all."""
    damage: list[Damage]
    """The first 20 of them; each mark names up to 100 of its own."""
    failed: list[Failure]
    """What the next run has to do again."""


class Plan(TypedDict):
    """What a run would do. Rows of stages that have not run, bytes and hours are estimates."""

    run_dir: str
    """Path of the run folder, which may not exist yet."""
    digest: str
    """Config digest, 32 hex digits."""
    input_files: int
    """Raw input files."""
    input_bytes: int
    """Their size."""
    shards: int
    """Shards of the run."""
    batches: int
    """Batches that are deduplicated apart."""
    executor: str
    """`executor.kind`."""
    workers: int
    """Processes that work at once."""
    stages: list[StagePlan]
    """One entry a stage, in order."""
    gigabytes: float
    """10^9 bytes that the run will hold on disk."""
    core_hours: float
    """Hours of one core that are still to be worked."""
    hours: float
    """The same, shared among the workers."""


class Proof(TypedDict):
    """What verify found."""

    run_dir: str
    """Path of the run folder."""
    sound: bool
    """Whether there are no problems."""
    problems: list[Problem]
    """Every problem, those that are merely not done yet among them."""


class StoryStep(TypedDict):
    """One stage's part of a pair's story."""

    stage: str
    """Name of the stage."""
    dropped: str | None
    """The step that dropped the pair here, or null."""
    columns: dict[str, Any]
    """The pair's row in the stage's table, `dropped` apart; columns as in the tables above."""


class Story(TypedDict):
    """One pair's way through the stages."""

    id: str
    """Id of the pair."""
    shard: int
    """Its shard."""
    batch: int
    """The batch of that shard."""
    row: int
    """Its row in the shard's source table."""
    dropped: str | None
    """The step that dropped it, or null."""
    stages: list[StoryStep]
    """The stages that it has passed, and the one that dropped it."""
