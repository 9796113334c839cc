"""The JSON that the commands print, as types: docs/formats.md is made of them, and tests hold real output against them.

Where a command prints what the toolkit keeps as a type of its own (a row of the plan or of the funnel, a problem that
verify found), that type is the schema.
"""

from __future__ import annotations

from typing import Any, TypedDict

from toolkit.data.stage import FunnelRow
from toolkit.run.forecast import Forecast
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
    aside: int
    """Those of them that have used up their attempts and are set aside; the others are tried again."""
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


class Recall(TypedDict):
    """What an inexact search of near-duplicates found, measured on a sample of images against an exact search."""

    stage: str
    """Name of the stage."""
    queries: int
    """Images of which all near-duplicates were looked for, over the finished units."""
    edges: int
    """Near-duplicates that they have; one between two of them counts twice."""
    found: int
    """Those that are in one set with them."""
    recall: float | None
    """Share of the edges that was found; null where there are none."""


class Join(TypedDict):
    """A way in which ranks have compared images. Every way of the exact join finds the same, and takes its own time."""

    stage: str
    """Name of the stage."""
    told: str
    """What they compared, in what numbers, and where; of short forms of the rows also how many pairs of a sample these
    left to be decided."""
    units: int
    """Finished units of which a rank did so."""


class FailedUnit(TypedDict):
    """A unit whose last attempt failed and that is not done since."""

    stage: str
    """Name of the stage."""
    unit: int
    """The unit."""
    reason: str
    """Why it failed, in one line; hostile, like all that a log holds."""
    attempts: int
    """Attempts that failed by the unit's own fault."""
    aside: bool
    """Whether it has used up its attempts; else it is tried again."""
    time: str
    """When the last attempt ended, UTC."""
    job: str | None
    """The job of Slurm, or array element, that it ran in; null where there was none."""
    log: str
    """Path of the file with the traceback."""
    tail: list[str]
    """The last lines of that job's log, with control characters as escapes; of the first 5 failures alone that have
    one, for `danqing logs` shows all."""


class StageUnits(TypedDict):
    """How a stage's units stand under slurm. Each is done (StageStatus), or counts in one of the four numbers."""

    stage: str
    """Name of the stage."""
    pending: int
    """Units that wait: for their task to start, for an earlier stage, or for somebody to submit them."""
    running: int
    """Units of tasks that run, those that are done apart; a task works through its units one after another, or as many
    at once as it has processors."""
    again: int
    """Units whose last attempt failed and that will be tried again."""
    aside: int
    """Units that are set aside."""
    rate: float | None
    """Units an hour, of the last units done; null where nothing of the stage runs or nothing was done yet."""
    ends: str | None
    """When the stage ends at that rate, UTC; null where there is none."""


class LiveJob(TypedDict):
    """Tasks of one job or array that Slurm holds, all in the same state for the same reason."""

    job: int
    """Number of the job or array."""
    stage: str
    """The stage; advance for the small job that goes on with the run."""
    tasks: int
    """Array elements in this state; 1 of a job that is no array."""
    state: str
    """Slurm's word: PENDING, RUNNING, COMPLETING, SUSPENDED, ..."""
    reason: str
    """Slurm's word for why they wait; empty where they do not."""
    why: str
    """The same in words; empty where there are none for it."""


class EndedJob(TypedDict):
    """Tasks of one job or array that ended before their units were done, or were interrupted and wait to start again.

    Nobody has judged them yet: that happens once all jobs of the stage have ended."""

    job: int
    """Number of the job or array."""
    stage: str
    """The stage."""
    tasks: int
    """Array elements that ended so."""
    state: str
    """Slurm's word: TIMEOUT, OUT_OF_MEMORY, PREEMPTED, NODE_FAIL, FAILED, ...; UNKNOWN where it has none."""
    why: str
    """The same in words, of one of them."""


class ClusterStatus(TypedDict):
    """What a run's jobs do."""

    problem: str | None
    """Why Slurm could not be asked; null where it could. Then nobody knows what runs, and all else is true."""
    cancelled: str | None
    """Why the jobs of this run were called back; null where they were not."""
    stuck: bool | None
    """Whether nothing moves and the run is not complete, so that somebody must start it again; null: nobody knows."""
    stages: list[StageUnits]
    """One entry a stage, in order."""
    jobs: list[LiveJob]
    """What Slurm holds of this run."""
    ended: list[EndedJob]
    """What ended badly and was not judged yet; a unit's failure that is told in `failed` is not told again."""


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
    recall: list[Recall]
    """One entry for each stage that searched with `dedup.backend: faiss`; empty where every edge was found."""
    joins: list[Join]
    """How dedup and merge looked for edges, each way once, of a stage that of the most units first."""
    damages: int
    """Bad records and files passed over, in all."""
    damage: list[Damage]
    """The first 20 of them; each mark names up to 100 of its own."""
    failed: list[FailedUnit]
    """What the next run has to do again."""
    cluster: ClusterStatus | None
    """What the jobs do; null where `executor.kind` is not slurm."""


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
    """Processes that work at once; 1 under slurm, where the cluster decides."""
    stages: list[StagePlan]
    """One entry a stage, in order."""
    gigabytes: float
    """10^9 bytes that the run will hold on disk."""
    core_hours: float
    """Hours of one core that are still to be worked."""
    hours: float
    """The same, shared among the workers; under slurm the longest chain of tasks."""
    cluster: Forecast | None
    """What the run asks of the cluster; null where `executor.kind` is not slurm."""


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
    why: str | None
    """What decided, in words: the measured value and its threshold; of a set of which the best stays also the column,
    and the values of the pair and, where it is of the same shard, of the one that stays. Null where it went on."""
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
