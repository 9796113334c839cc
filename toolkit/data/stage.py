"""A stage is a job over shards; a task is one unit of it. This is all that a stage knows about where it runs.

The same stage function runs in a run folder (run/task.py) and on plain files (`danqing stage`): both give it a
`Task`, which hands it its input rows and takes what it writes. A stage never opens a path for writing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import IO, Any, Literal, Protocol

import pyarrow as pa

from toolkit.data.ids import Ids
from toolkit.data.world import World


class Kind(StrEnum):
    """How a stage's units relate to shards."""

    MAP = "map"  # one unit per shard, one shard in, one shard out
    REDUCE = "reduce"  # reads all shards, writes something small, or re-partitions by id
    COLLECTIVE = "collective"  # one unit per batch (or one in all); reads features of many shards


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)  # one object a stage: compared by identity, which is fast
class Stage:
    """One stage of the recipe.

    `run` is named as "module:function" so that importing the recipe imports no heavy package. `after` names the
    stages whose rows or files this stage is made of: its units are stale where those changed.
    `version` is raised whenever the stage's output for the same input changes; finished shards are then redone.
    """

    name: str
    number: int
    kind: Kind
    run: str
    steps: Sequence[str]
    after: Sequence[str]
    version: int
    awaits: Sequence[str] = ()  # stages that must be complete first, but whose change makes nothing stale
    rows_only: bool = False  # of those in `after` only the rows that they left count, not what they measured
    close: str | None = None  # a last unit, run when all others are done (export's card and manifest)
    checkpoints: bool = False  # whether the stage asks `stopping` and keeps finished parts

    @property
    def folder(self) -> str:
        """Return the folder of the stage in a run, e.g. "30_fetch"."""
        return f"{self.number}_{self.name}"


def stem(unit: int) -> str:
    """Return what the file names of a unit begin with, e.g. "000012"."""
    return f"{unit:06d}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """One published file."""

    path: str
    """Path below the stage's `data/`."""
    bytes: int
    """Its size."""
    digest: str
    """BLAKE2b-256 of its bytes, 64 hex digits."""
    rows: int | None
    """Rows of a table; null for other files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FunnelRow:
    """One step of the funnel. A count is null where nobody counted."""

    step: str
    """Name of the step; the first row is `raw`, the pairs that were found; `STAGE: shards not done` is no step."""
    left: int | None
    """Pairs left after it; null where it is not run or was not reached."""
    dropped: int | None
    """Pairs dropped by it, or changed by a rewriting step."""
    paper_left: int | None
    """Pairs left in the paper's Table 6; null where it has no such row."""
    paper_dropped: int | None
    """Pairs dropped there."""
    state: Literal["run", "not run", "rewrite", "missing"]
    """Whether the configuration runs it; rewrite: it changes texts and drops nothing; missing: pairs of shards that the
    stage has not done."""


class Stopped(Exception):  # noqa: N818 (an event, not an error)
    """The task was asked to stop and kept what is finished; the unit is done by a later attempt."""


class Task(Protocol):
    """One unit of a stage at work: where its rows come from, where its files go, and when to stop."""

    unit: int
    parts: int  # units of the stage unique: parts of the ids
    config: Any  # the whole Config; a stage reads its own section
    world: World  # the ranks that work on this unit together; collective stages may have several, rank 0 alone writes

    def shards(self) -> Sequence[int]:
        """Return the shards that this unit covers: one for map stages, a batch or all for the others."""

    def called(self, shard: int) -> str:
        """Return what a shard is, in words: its number in a run, the path of its features on plain files."""

    def files(self) -> Sequence[tuple[int, str]]:
        """Return the raw input files of this unit (stage source only): their index in the run's list, and path."""

    def rows(self, *names: str, shard: int | None = None) -> pa.Table:
        """Return the named columns, from whichever earlier stage measured them, of the rows alive at this input."""

    def total(self) -> int:
        """Return the number of rows alive at this stage's input over all shards."""

    def ids(self, shard: int) -> Ids | None:
        """Return the ids of the rows alive at this stage's input, as `rows` does; None for all of the features' file.

        Such a file may have any number of rows, and has their ids itself.
        """

    def table(self, stage: str, unit: int = 0) -> pa.Table:
        """Return the whole table of an earlier reduce stage (unique, words, hosts)."""

    def find(self, stage: str, column: str, values: Sequence[str]) -> pa.Table:
        """Return the rows of an earlier reduce stage's table whose column is one of the values."""

    def open(self, stage: str, suffix: str, shard: int | None = None) -> IO[bytes]:
        """Open an earlier stage's file (".tar", ".h5") of this shard for reading, its digest checked (a tar's size)."""

    def create(self, suffix: str) -> IO[bytes]:
        """Open an output of this unit (".tar", ".h5") for writing and reading; published with the unit.

        The task closes it.
        """

    def name(self, suffix: str) -> str:
        """Return the name that this unit's file of that suffix will have, without folders."""

    def create_named(self, name: str) -> IO[bytes]:
        """Open an output at the top of the stage's data folder, as `create` does (closing units only)."""

    def write(self, tables: pa.Table | Iterable[pa.Table]) -> None:
        """Write this unit's table; call once.

        A stream of tables is written as it comes. The task counts the drops from the column `dropped`.
        """

    def write_shards(self, tables: Iterable[tuple[int, pa.Table]]) -> None:
        """Write the tables of this unit's shards (collective stages): their parts, in the order of shards and rows.

        Each shard has a part at least, maybe without rows.
        """

    def damage(self, where: str, what: str) -> None:
        """Count and name a bad file or record that was passed over; the run goes on, `status` shows it."""

    def spoilt(self, where: str, what: str) -> None:
        """Say that a part of an earlier stage's file is not what that stage wrote: damage on plain files.

        In a run nothing is built on it: raises WorkError.
        """

    def count(self, step: str, rows: int) -> None:
        """Count rows that a rewriting step changed, or dropped rows that are not written (`rejects: counts`)."""

    def tally(self, key: str, rows: int) -> None:
        """Add to a named number in the mark, e.g. "language.eng"; numbers of all shards add up in the report."""

    def note(self, fact: str, said: Sequence[str]) -> None:
        """Say in the log, and note in the mark, what another machine may do otherwise to the same result."""

    def advance(self, rows: int) -> None:
        """Say that so many more rows are done, for the progress display."""

    def stopping(self) -> bool:
        """Return whether the task was asked to stop; a stage that checkpoints stops at its next safe point."""

    def checkpoint(self) -> Checkpoint:
        """Return the place where finished parts of this unit survive a kill."""

    def earlier(self) -> Sequence[Earlier]:
        """Return the rows of earlier runs that those of this unit are held against (collective stages only)."""

    def outputs(self) -> Sequence[Output]:
        """Return the published files of this stage's finished units (closing units only)."""

    def funnel(self) -> Sequence[FunnelRow]:
        """Return the run's funnel in recipe order, every step of it (closing units only)."""

    def digest(self) -> str:
        """Return the config digest of the run."""


class Earlier(Protocol):
    """Some rows of an earlier run, or of a file of features; small, and any rank may read it."""

    @property
    def name(self) -> str:
        """Return what and where it is, in words."""

    @property
    def rows(self) -> int:
        """Return the number of rows."""

    def ids(self) -> Ids | None:
        """Return the ids of the rows, (rows, 16); None for all of the features' file, which has them itself."""

    def open(self) -> IO[bytes]:
        """Open a file of features for reading that holds these rows in this order, maybe among others."""


class Checkpoint(Protocol):
    """Finished parts of an unfinished unit, by number; each is there wholly or not at all."""

    def parts(self) -> Iterator[int]:
        """Return the numbers of the parts that are there, ascending."""

    def load(self, part: int, suffix: str) -> IO[bytes]:
        """Open a file of a finished part for reading."""

    def save(self, part: int, write: Callable[[Callable[[str], IO[bytes]]], None]) -> None:
        """Write a part's files through `write(create)` and publish them together; where it is there, they are not."""

    def add(self, write: Callable[[Callable[[str], IO[bytes]]], None]) -> None:
        """Write and publish a part under the next free number; never in vain, whatever other attempts save."""
