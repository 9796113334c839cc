"""Any one stage on plain files, without a run folder: `danqing stage NAME --input ... --output ...`.

Promise: outputs appear whole and only if the stage succeeded; nothing is overwritten and nothing is left behind; what a
command that was killed leaves, a hidden folder beside its output, goes with the next one for that output. A damaged
input costs that input (run/inputs.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc

from toolkit.config import Config
from toolkit.data import pair, table
from toolkit.data.ids import Ids
from toolkit.data.stage import FunnelRow, Kind, Output, Stage
from toolkit.data.world import ALONE, World
from toolkit.errors import UserError, WorkError
from toolkit.recipe import BY_NAME
from toolkit.run import files, mpi
from toolkit.run.earlier import Piece, find, pieces
from toolkit.run.inputs import Inputs
from toolkit.run.task import BaseTask, entry_point

# What stages write beside their table.
_BESIDE = {"fetch": ".tar", "embed": ".h5", "export": ".tar"}
# Columns that an export may lack: what another tool's tables do not know is published as null.
_OPTIONAL = ("page", "width", "height", "mime", "text")
_IMAGE = ("offset", "bytes", "digest")  # where no images are published


def run_stage(
    name: str,
    inputs: Sequence[Path],
    output: Path,
    config: Config,
    world: World = ALONE,
    *,
    on_advance: Callable[[int], None] = lambda rows: None,
) -> PlainTask:
    """Run one stage on plain files and put its outputs at `output` and beside it; return the task with its counts.

    Raises UserError where an input can not serve this stage or an output exists, WorkError where nothing is usable.
    Several ranks may work on a collective stage; rank 0 writes and hears of progress, and an error of one ends all.
    """
    with mpi.guard(world):
        if world.rank == 0:
            task = _publishing(name, inputs, output, config, world=world, on_advance=on_advance)
        else:
            task = PlainTask(BY_NAME[name], inputs, config, output.parent, {}, world=world)
            entry_point(task.stage.run)(task)
        world.bcast(None)
        return task


def _publishing(
    name: str,
    inputs: Sequence[Path],
    output: Path,
    config: Config,
    *,
    world: World,
    on_advance: Callable[[int], None],
) -> PlainTask:
    finals = _finals(name, output.absolute())
    _sweep(output.absolute())
    folder = files.make(_aside(output.absolute(), files.token()))
    task = PlainTask(BY_NAME[name], inputs, config, folder, finals, world=world)
    task.on_advance = on_advance
    try:
        entry_point(task.stage.run)(task)
        _publish({finals[Path(made.path).suffix]: folder / Path(made.path).name for made in task.books.finish()})
        return task
    finally:
        task.books.close()
        files.clear(folder)


def _aside(output: Path, token: str) -> Path:
    return output.with_name(f".{output.name}.{token}")


def _sweep(output: Path) -> None:
    """Remove what killed commands of this host left of this output."""
    prefix = _aside(output, "").name
    for path in output.parent.iterdir():
        if path.name.startswith(prefix) and files.dead(path.name.removeprefix(prefix)):
            files.clear(path)


def _finals(name: str, target: Path) -> dict[str, Path]:
    """Return the final path of each kind of file that the stage writes; raises UserError where one is taken."""
    suffixes = [".parquet", *([_BESIDE[name]] if name in _BESIDE else [])]
    main = target.suffix if target.suffix in suffixes else ".parquet"
    finals = {suffix: target if suffix == main else target.with_suffix(suffix) for suffix in suffixes}
    if not target.parent.is_dir():
        raise UserError(f"--output {target}: the folder {target.parent} does not exist; make it first.")
    for final in finals.values():
        if final.exists() or final.is_symlink():
            raise _taken(final)
    return finals


def _taken(final: Path) -> UserError:
    return UserError(f"--output: {final} exists already, and nothing is overwritten; remove it, or give another name.")


def _publish(made: dict[Path, Path]) -> None:
    """Give the finished files their final names, all or none."""
    done: list[Path] = []
    try:
        for final, file in made.items():
            if not files.link(file, final):
                raise _taken(final)
            done.append(final)
            files.sync(final.parent)
    except BaseException:
        for final in done:
            files.remove(final)
        raise


class PlainTask(BaseTask):
    """A task whose rows come from files that the user named."""

    def __init__(
        self,
        stage: Stage,
        inputs: Sequence[Path],
        config: Config,
        folder: Path,
        finals: dict[str, Path],
        *,
        world: World = ALONE,
    ) -> None:
        super().__init__(stage, 0, config, folder, world=world)
        self._paths, self._finals = inputs, finals
        self._scratch = Scratch(self.books.folder)

    @cached_property
    def inputs(self) -> Inputs:
        """What the files hold; the stage source reads them itself."""
        return Inputs(self._paths, self.damage)

    @property
    def broken(self) -> list[str]:
        """Return which inputs could not be read, or not to their end."""
        return self.inputs.broken if self.stage.name != "source" else []

    def name(self, suffix: str) -> str:
        """Return the final name of this stage's file."""
        return self._finals[suffix].name

    def files(self) -> Sequence[tuple[int, str]]:
        """Return the raw input files."""
        return [(number, str(path)) for number, path in enumerate(self._paths)]

    def shards(self) -> Sequence[int]:
        """Return a number for each feature file or table where the stage tells them apart, or one for all."""
        if self.stage.kind is Kind.COLLECTIVE:
            self._need("HDF5 feature file", self.inputs.features)
            return list(self.inputs.features)
        if self.stage.name == "unique":
            self._need("table", self.inputs.tables)
            return list(self.inputs.tables)
        return [0]

    def called(self, shard: int) -> str:
        """Return the path of a feature file."""
        return str(self.inputs.features[shard])

    def total(self) -> int:
        """Return the number of rows."""
        return int(self._rows(None).num_rows)

    def rows(self, *names: str, shard: int | None = None) -> pa.Table:
        """Return columns of the rows that no input has dropped."""
        found = self._rows(shard)
        for name in names:
            if name not in found.column_names:
                found = found.append_column(name, self._default(name, found))
        if self.stage.name == "export" and self.config.export.images:  # what a cut tar has lost can not be published
            found = found.filter(pc.is_valid(found["offset"]))
        return found.select(list(names))

    def ids(self, shard: int) -> Ids | None:
        """Return the ids of the rows of a feature file that no table has dropped; None where there is no table."""
        return self.inputs.feature_ids(shard)

    def _rows(self, shard: int | None) -> pa.Table:
        one = self.stage.kind is Kind.COLLECTIVE and shard is not None
        found = self.inputs.feature_rows(shard) if one and shard is not None else self.inputs.rows
        self._need("input with rows of pairs", found.column_names)
        return found

    def _default(self, name: str, found: pa.Table) -> pa.Array | pa.ChunkedArray:
        if name == "caption" and "text" in found.column_names:
            return found["text"]
        if self.stage.name == "export" and name in (_OPTIONAL if self.config.export.images else _OPTIONAL + _IMAGE):
            return pa.nulls(found.num_rows, pair.schema("export").field(name).type)
        raise self._lack(
            f"The stage {self.stage.name} needs the column {name}; the inputs have {', '.join(found.column_names)}. "
            "Give the table that holds it with a further --input; tables are joined by id."
        )

    def _need(self, what: str, found: Sized) -> None:
        if not found:
            raise self._lack(f"The stage {self.stage.name} needs at least one {what}; none is among the inputs.")

    def _lack(self, text: str) -> Exception:
        """Return the error for what is missing: the user's own, unless a damaged input may have held it."""
        if not self.broken:
            return UserError(text)
        return WorkError(f"{text} Damaged are {'; '.join(self.broken[:5])}.")

    def table(self, stage: str, unit: int = 0) -> pa.Table:
        """Return a table that another stage would have written: given as input, counted here, or empty."""
        if stage == "source":
            found = self.inputs.tables[unit]
            if "dropped" not in found.column_names:
                found = found.append_column("dropped", pa.nulls(found.num_rows, pa.string()))
            return found.select(["id", "dropped"])
        found = self.inputs.aside(stage)
        return self._counted() if stage == "words" and not found.num_rows else found

    def _counted(self) -> pa.Table:
        """Return the word counts of these very inputs."""
        folder = files.make(self.books.folder / "words")
        task = PlainTask(BY_NAME["words"], self._paths, self.config, folder, {})
        task.inputs = self.inputs
        entry_point(task.stage.run)(task)
        (made,) = task.books.finish()
        with (folder / Path(made.path).name).open("rb") as file:
            return table.read(file)

    def find(self, stage: str, column: str, values: Sequence[str]) -> pa.Table:
        """Return rows of a table that was given as input."""
        found = self.table(stage)
        return found.filter(pc.is_in(found[column], value_set=pa.array(values, pa.string())))

    def open(self, stage: str, suffix: str, shard: int | None = None) -> IO[bytes]:
        """Open an input: all tars as one stream, or the feature file of that number, or all feature files as one."""
        if suffix == ".tar":
            self._need("tar with images", self.inputs.tars)
            return self.inputs.open_tars()
        self._need("HDF5 feature file", self.inputs.features)
        if shard is None and len(self.inputs.features) > 1:
            return self._merged()
        return self.inputs.features[shard if shard is not None else min(self.inputs.features)].open("rb")

    def _merged(self) -> IO[bytes]:
        """Return all feature files in one."""
        from toolkit.data.features import merge

        path = self.books.folder / "features"
        with ExitStack() as stack, files.create(path) as sink:
            merge(sink, [stack.enter_context(p.open("rb")) for p in self.inputs.features.values()])
        return path.open("rb")

    def write_shards(self, tables: Iterable[tuple[int, pa.Table]]) -> None:
        """Write one table for all feature files."""
        self.write(part for _, part in tables)

    def checkpoint(self) -> Scratch:
        """Return a place for parts that lives as long as the command."""
        return self._scratch

    def earlier(self) -> Sequence[Piece]:
        """Return the rows of what the configuration names."""
        return [piece for source in find(self.config.dedup.earlier) for piece in pieces(source)]

    def outputs(self) -> Sequence[Output]:
        """Return nothing: a single stage has no other units."""
        return []

    def funnel(self) -> Sequence[FunnelRow]:
        """Return nothing: a single stage has no funnel."""
        return []

    def digest(self) -> str:
        """Return an empty digest: there is no run."""
        return ""


class Scratch:
    """A checkpoint without a tomorrow."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts: list[int] = []

    def parts(self) -> Iterator[int]:
        """Return the parts of this command."""
        yield from self._parts

    def load(self, part: int, suffix: str) -> IO[bytes]:
        """Open a part's file."""
        return (self._folder / f"part-{part}{suffix}").open("rb")

    def save(self, part: int, write: Callable[[Callable[[str], IO[bytes]]], None]) -> None:
        """Write a part's files."""
        with ExitStack() as opened:
            write(lambda suffix: opened.enter_context(files.create(self._folder / f"part-{part}{suffix}")))
        self._parts.append(part)

    def add(self, write: Callable[[Callable[[str], IO[bytes]]], None]) -> None:
        """Write a part's files under the next number."""
        self.save(len(self._parts), write)
