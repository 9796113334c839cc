"""One unit of a stage at work in a run folder: rows from published tables, files into an attempt, then publishing.

`attempt` is the function that every executor runs; it is safe to run any number of times, at once or in a row.
"""

from __future__ import annotations

import hashlib
import importlib
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

import toolkit
from toolkit.config import Config
from toolkit.config.config import canonical
from toolkit.data import ids, pair, table
from toolkit.data.ids import Ids
from toolkit.data.stage import FunnelRow, Output, Stage, Stopped, stem
from toolkit.data.world import ALONE, World
from toolkit.errors import WorkError
from toolkit.recipe import BY_NAME, REWRITES, STAGES
from toolkit.run import clock, files, mpi, scheduler, signals
from toolkit.run.earlier import Piece, Source, key, pieces
from toolkit.run.failures import note
from toolkit.run.funnel import funnel
from toolkit.run.layout import relative
from toolkit.run.ledger import Mark, check_output, chosen, publish, read_mark
from toolkit.run.parts import Parts
from toolkit.run.rows import gather
from toolkit.run.run import Run
from toolkit.run.tables import repeated

# Damage that is named in a mark; beyond that it is only counted, so that a mark stays small.
NAMED = 100


@dataclass
class Books:
    """What a task counts while it works, and the files that it has open."""

    folder: Path
    rows_in: int = 0
    rows_out: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    tallies: Counter[str] = field(default_factory=Counter)
    facts: dict[str, Sequence[str]] = field(default_factory=dict)
    damages: int = 0
    damage: list[tuple[str, str]] = field(default_factory=list)
    opened: dict[str, IO[bytes]] = field(default_factory=dict)
    rows_of: dict[str, int] = field(default_factory=dict)
    living: Any = None  # a hash of the rows that no step drops, where a later stage asks for it

    def create(self, path: str) -> IO[bytes]:
        """Open a new output, `path` being its name below data/."""
        file = files.create(self.folder / Path(path).name)
        self.opened[path] = file
        return file

    def watch(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Pass tables on, counting their rows and the steps that dropped them."""
        for part in tables:
            self.rows_in += part.num_rows
            dropped = part["dropped"] if "dropped" in part.column_names else pa.chunked_array([], pa.string())
            for step, rows in zip(*_counts(dropped), strict=True):
                self.drops[step] += rows
            self.rows_out += part.num_rows - len(dropped) + dropped.null_count
            if self.living is not None:
                self._note(part.filter(pc.is_null(part["dropped"])))
            yield part

    def _note(self, rows: pa.Table) -> None:
        """Add rows to the digest of those that live."""
        for row in zip(rows["id"].to_pylist(), rows["caption"].to_pylist(), strict=True):
            self.living.update(canonical(row) + b"\n")

    def finish(self) -> list[Output]:
        """Bring every output to the disk and return their sizes and digests."""
        outputs = []
        for path, file in sorted(self.opened.items()):
            size, digest = files.seal(self.folder / Path(path).name, file)
            outputs.append(Output(path=path, bytes=size, digest=digest, rows=self.rows_of.get(path)))
        return outputs

    def close(self) -> None:
        """Close what is open, after a failure."""
        for file in self.opened.values():
            file.close()


def _counts(dropped: pa.ChunkedArray) -> tuple[list[str], list[int]]:
    counted = pc.value_counts(dropped.drop_null())
    return counted.field("values").to_pylist(), counted.field("counts").to_pylist()


def _text(said: str) -> str:
    """Return text that JSON can hold: file names need not be UTF-8."""
    return said.encode("utf-8", "backslashreplace").decode()


class BaseTask:
    """What tasks in a run folder and on plain files have in common: outputs and counts."""

    def __init__(
        self, stage: Stage, unit: int, config: Config, folder: Path, *, parts: int = 1, world: World = ALONE
    ) -> None:
        self.stage, self.unit, self.config, self.parts, self.world = stage, unit, config, parts, world
        self.books = Books(folder)
        self.on_advance: Callable[[int], None] = lambda rows: None

    def create(self, suffix: str) -> IO[bytes]:
        """Open an output of this unit."""
        assert self.world.rank == 0, "rank 0 alone writes"
        return self.books.create(relative(self.unit, suffix))

    def name(self, suffix: str) -> str:
        """Return the final name of this unit's file."""
        return f"{stem(self.unit)}{suffix}"

    def create_named(self, name: str) -> IO[bytes]:
        """Open an output at the top of data/."""
        return self.books.create(name)

    def write(self, tables: pa.Table | Iterable[pa.Table]) -> None:
        """Write the unit's table."""
        self._write(self.unit, [tables] if isinstance(tables, pa.Table) else tables)

    def _write(self, number: int, stream: Iterable[pa.Table]) -> None:
        assert self.world.rank == 0, "rank 0 alone writes"
        path = relative(number, ".parquet")
        schema = pair.schema(self.stage.name)
        self.books.rows_of[path] = table.write(self.books.create(path), schema, self.books.watch(stream))

    def damage(self, where: str, what: str) -> None:
        """Count and name a bad file or record."""
        self.books.damages += 1
        if len(self.books.damage) < NAMED:
            self.books.damage.append((_text(where), _text(what)))

    def called(self, shard: int) -> str:
        """Return what a shard is, in words."""
        return f"shard {shard}"

    def spoilt(self, where: str, what: str) -> None:
        """Count and name a bad part of an earlier file."""
        self.damage(where, what)

    def count(self, step: str, rows: int) -> None:
        """Count rewritten rows, or dropped rows that are not written."""
        if step in REWRITES:
            self.books.counts[step] += rows
        else:
            self.books.drops[step] += rows
            self.books.rows_in += rows

    def tally(self, key: str, rows: int) -> None:
        """Add to a named number."""
        self.books.tallies[key] += rows

    def note(self, fact: str, said: Sequence[str]) -> None:
        """Note what may differ between two attempts."""
        self.books.facts[fact] = said

    def advance(self, rows: int) -> None:
        """Report progress; a stage without checkpoints is stopped here."""
        self.on_advance(rows)
        if signals.stopping() and not self.stage.checkpoints:
            raise Stopped(f"{self.stage.name} {self.unit} was asked to stop")

    def stopping(self) -> bool:
        """Return whether the process was asked to stop."""
        return signals.stopping()


class RunTask(BaseTask):
    """A task in a run folder."""

    def __init__(
        self, run: Run, stage: Stage, unit: int, folder: Path, inputs: dict[str, str], *, world: World = ALONE
    ) -> None:
        super().__init__(stage, unit, run.config, folder, parts=run.parts, world=world)
        self.run = run
        self.inputs = inputs
        if any(stage.name in later.after for later in STAGES if later.rows_only):
            self.books.living = hashlib.blake2b(digest_size=16)
        self._checked: set[str] = set()

    def shards(self) -> Sequence[int]:
        """Return the shards that this unit covers."""
        return self.run.shards_of(self.stage, self.unit)

    def files(self) -> Sequence[tuple[int, str]]:
        """Return the raw input files of this shard."""
        per = self.config.input.files_per_shard
        chosen = self.run.inputs[self.unit * per : (self.unit + 1) * per]
        return [(self.unit * per + i, f.path) for i, f in enumerate(chosen)]

    def total(self) -> int:
        """Return the rows alive at this stage's input, over all shards."""
        nearest = BY_NAME[self.run.chain(self.stage)[0]]
        rows = sum(e.mark.rows_out for e in self.run.marks(nearest).values())
        if nearest.name == "source":
            rows -= sum(sum(e.mark.drops.values()) for e in self.run.marks(BY_NAME["unique"]).values())
        return rows

    def rows(self, *names: str, shard: int | None = None) -> pa.Table:
        """Return columns of the rows alive at this stage's input."""
        source = ShardTables(self, self.unit if shard is None else shard)
        return gather(self.run.chain(self.stage), names, source, unique=self.stage.number > BY_NAME["unique"].number)

    def ids(self, shard: int) -> Ids:
        """Return the ids of the rows alive at this stage's input."""
        return ids.array(self.rows("id", shard=shard)["id"])

    def write_shards(self, tables: Iterable[tuple[int, pa.Table]]) -> None:
        """Write a table for each shard."""
        for shard, parts in groupby(tables, key=itemgetter(0)):
            self._write(shard, (part for _, part in parts))

    def table(self, stage: str, unit: int = 0) -> pa.Table:
        """Return an earlier table whole; of source only what unique needs, its pages checked but not its digest."""
        columns = ["id", "dropped"] if stage == "source" else None
        return self.read(BY_NAME[stage], unit, columns, checked=stage != "source")

    def find(self, stage: str, column: str, values: Sequence[str]) -> pa.Table:
        """Return rows of an earlier reduce stage's table, without holding all of it."""
        with self.path(BY_NAME[stage], 0, ".parquet").open("rb") as file:
            return table.find(file, column, pa.array(values, pa.string()))

    def open(self, stage: str, suffix: str, shard: int | None = None) -> IO[bytes]:
        """Open an earlier file; of tars only the size is checked here, each image has its own digest."""
        unit = self.unit if shard is None else shard
        return self.path(BY_NAME[stage], unit, suffix, checked=suffix != ".tar").open("rb", buffering=files.BUFFER)

    def read(self, stage: Stage, shard: int, columns: Sequence[str] | None, checked: bool = True) -> pa.Table:
        """Read a table of an earlier stage."""
        path = self.path(stage, shard, ".parquet", checked)
        with path.open("rb") as file:
            return table.read(file, columns)

    def path(self, stage: Stage, shard: int, suffix: str, checked: bool = True) -> Path:
        """Return the path of an earlier file after comparing it with its mark; raises WorkError."""
        name = relative(shard, suffix)
        unit = self.run.unit_of(stage, shard)
        entry = self.run.valid(stage, unit)
        output = next((o for o in entry.mark.outputs if o.path == name), None) if entry else None
        if output is None:
            raise WorkError(f"{stage.folder}/data/{name} was never published; run `danqing run` again.")
        key = f"{stage.name}/{name}"
        path = self.run.layout.file(stage, name)
        if checked and key not in self._checked:
            check_output(self.run.layout, stage, output)
            self._checked.add(key)
        elif not path.exists() or path.stat().st_size != output.bytes:
            raise WorkError(f"{stage.folder}/data/{name} is missing or cut short; `danqing verify` shows what else is.")
        return path

    def spoilt(self, where: str, what: str) -> None:
        """Refuse to build on what is damaged."""
        raise WorkError(
            f"{where} is not what was published ({what}); `danqing repair` finds and mends what is damaged."
        )

    def note(self, fact: str, said: Sequence[str]) -> None:
        """Note what may differ between two attempts, and say it in the log; on a terminal there are bars."""
        super().note(fact, said)
        if self.world.rank == 0 and not sys.stdout.isatty():
            print(f"{clock.now()} {self.stage.name} {stem(self.unit)}: {fact}: {'; '.join(said)}", flush=True)

    def checkpoint(self) -> Parts:
        """Return this unit's finished parts."""
        made_of = self.inputs | key(self._sources())
        return Parts(self.run.layout, self.stage, self.unit, made_of, self.books.folder.name)

    def earlier(self) -> Sequence[Piece]:
        """Return what this unit's rows are held against: the stage merge is."""
        return [piece for source in self._sources() for piece in pieces(source)]

    def _sources(self) -> Sequence[Source]:
        return self.run.earlier if self.stage.name == "merge" else []

    def outputs(self) -> Sequence[Output]:
        """Return the files of this stage's other units."""
        entries = self.run.marks(self.stage)
        return [o for u in sorted(entries) if u != self.unit for o in entries[u].mark.outputs]

    def funnel(self) -> Sequence[FunnelRow]:
        """Return the run's funnel."""
        return funnel(self.run)

    def digest(self) -> str:
        """Return the config digest."""
        return self.run.digest


@dataclass
class ShardTables:
    """The tables of one shard, for `gather`."""

    task: RunTask
    shard: int

    def read(self, stage: str, columns: Sequence[str]) -> pa.Table:
        """Return columns of a stage's table of this shard."""
        return self.task.read(BY_NAME[stage], self.shard, columns)

    def duplicates(self) -> npt.NDArray[np.int64]:
        """Return the source rows of this shard that unique drops."""
        unique = BY_NAME["unique"]
        paths = (self.task.path(unique, part, ".parquet", checked=False) for part in range(self.task.parts))
        return np.sort(repeated(paths, self.shard)["row"].to_numpy()).astype(np.int64)


def entry_point(name: str) -> Callable[[Any], None]:
    """Import "module:function"."""
    module, _, function = name.partition(":")
    found: Callable[[Any], None] = getattr(importlib.import_module(module), function)
    return found


def attempt(
    run: Run,
    stage: Stage,
    unit: int,
    on_advance: Callable[[int], None] = lambda rows: None,
    world: World = ALONE,
) -> None:
    """Do one unit and publish it, unless another attempt was first; all ranks of the world come and leave together.

    Raises whatever the stage raises, after the attempt's folder is gone; checkpointed parts stay. In a world of several
    ranks only `Stopped` is raised: any other exception ends them all.
    """
    with mpi.guard(world, lambda error: note(run, stage, unit, error)):
        # What is seen of the disk decides on rank 0 alone: two nodes may see it at different moments.
        inputs, done = world.bcast(_seen(run, stage, unit) if world.rank == 0 else (None, False))
        if inputs is None:
            raise WorkError(f"{stage.folder} {stem(unit)}: its input is not complete; run `danqing run` again.")
        if done:
            return
        if world.rank == 0:
            folder = files.make(run.layout.attempt(stage, unit, files.token()))
            task = RunTask(run, stage, unit, folder, inputs, world=world)
            task.on_advance = on_advance
            _publishing(run, task)
        else:
            entry_point(stage.run)(RunTask(run, stage, unit, run.layout.work(stage), inputs, world=world))
        world.bcast(None)


def _seen(run: Run, stage: Stage, unit: int) -> tuple[dict[str, str] | None, bool]:
    """Return the digests of a unit's inputs, None where some are missing, and whether it is done."""
    inputs = run.input_digests(stage, unit)
    return inputs, inputs is not None and run.ledger.entry(stage, unit) is not None


def _publishing(run: Run, task: RunTask) -> None:
    """Work and publish on the rank that writes."""
    stage, unit, folder = task.stage, task.unit, task.books.folder
    try:
        _work(run, task)
    except OSError:
        # In a world of several ranks the others are still at work: all end, and the next job finds the unit done.
        if task.world.size > 1 or read_mark(run.layout.mark(stage, unit)) is None:
            raise
        # Another attempt finished meanwhile and swept this one's folder away.
    finally:
        task.books.close()
        if chosen(run.layout, stage, unit) != folder:  # what may publish is finished, and is carried forward later
            files.clear(folder)


def _work(run: Run, task: RunTask) -> None:
    stage, folder = task.stage, task.books.folder
    started, begin = clock.now(), clock.ticks()
    entry_point(stage.close if stage.close and run.closing(stage, task.unit) else stage.run)(task)
    outputs = task.books.finish()
    facts: dict[str, Any] = {"host": socket.gethostname(), "attempt": folder.name, "job": scheduler.element()}
    facts |= {"started": started, "seconds": round(clock.ticks() - begin, 3), "toolkit": toolkit.__version__}
    mark = _mark(task, outputs, task.books.facts | facts)
    publish(run.layout, stage, folder, mark)


def _mark(task: RunTask, outputs: list[Output], facts: dict[str, Any]) -> Mark:
    books = task.books
    return Mark(
        stage=task.stage.folder,
        unit=task.unit,
        version=task.stage.version,
        outputs=outputs,
        inputs=task.inputs,
        rows_in=books.rows_in,
        rows_out=books.rows_out,
        living=books.living.hexdigest() if books.living is not None else "",
        drops=dict(sorted(books.drops.items())),
        counts=dict(sorted(books.counts.items())),
        tallies=dict(sorted(books.tallies.items())),
        damages=books.damages,
        damage=books.damage,
        facts=facts,
    )
