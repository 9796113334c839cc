"""Any one stage on plain files, without a run folder: `danqing stage NAME --input ... --output ...`.

What a file is, its content tells: parquet, HDF5, tar, or (for source and fetch) crawl files and text tables. Tables
with the same columns are parts of one table; tables with other columns are joined to them by id. Tars without a table
give rows of their own. A damaged file costs that file: it is named, the rest is done, and the command ends with 1.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc

from toolkit.config import Config
from toolkit.data import pair, table
from toolkit.data.stage import FunnelRow, Kind, Output, Stage
from toolkit.errors import UserError, WorkError
from toolkit.recipe import BY_NAME
from toolkit.run import files
from toolkit.run.task import BaseTask, entry_point

# Columns that an export may lack: what another tool's tables do not know is published as null.
_OPTIONAL = ("page", "width", "height", "mime", "text")
_IMAGES = {".jpg", ".jpeg", ".png", ".webp", ".gif"}


def kind(path: Path) -> str:
    """Return what a file is by its content: parquet, hdf5, tar, empty or other."""
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"\x89HDF"):
        return "hdf5"
    if head[257:262] == b"ustar" or (len(head) == 512 and not any(head)):
        return "tar"
    return "other" if head else "empty"


def run_stage(name: str, inputs: Sequence[Path], output: Path, config: Config) -> PlainTask:
    """Run one stage on plain files and put its outputs at `output` and beside it; return the task with its counts.

    Raises UserError where an input can not serve this stage or an output exists, WorkError where nothing is usable.
    """
    stage = BY_NAME[name]
    target = output.absolute()
    if not target.parent.is_dir():
        raise UserError(f"--output {output}: the folder {target.parent} does not exist; make it first.")
    folder = files.make(target.parent / f".{target.name}.{files.token()}")
    task = PlainTask(stage, inputs, config, folder, target)
    try:
        entry_point(stage.run)(task)
        produced = [folder / Path(made.path).name for made in task.books.finish()]
        named = any(made.suffix == target.suffix for made in produced)
        for made in produced:
            main = made.suffix == target.suffix if named else made.suffix == ".parquet"
            _deliver(made, target if main else target.with_suffix(made.suffix))
        files.sync(target.parent)
        return task
    finally:
        task.close()
        files.clear(folder)


def _deliver(made: Path, final: Path) -> None:
    if not files.link(made, final):
        raise UserError(f"--output {final} exists already; remove it, or give another name.")


class PlainTask(BaseTask):
    """A task whose rows come from files that the user named."""

    def __init__(self, stage: Stage, inputs: Sequence[Path], config: Config, folder: Path, target: Path) -> None:
        super().__init__(stage, 0, config, folder)
        self._target = target
        self._inputs = list(inputs)
        self._open: list[IO[bytes]] = []
        self._tables: list[pa.Table] = []
        self.damages_of_files = 0

    def close(self) -> None:
        """Close what is open."""
        self.books.close()
        for file in self._open:
            file.close()

    def name(self, suffix: str) -> str:
        """Return the final name of this stage's file."""
        return self._target.with_suffix(suffix).name

    def shards(self) -> Sequence[int]:
        """Return a number for each input file, or for all of them together in stages of one shard."""
        return [0] if self.stage.kind is Kind.MAP else range(len(self._shard_files))

    def files(self) -> Sequence[tuple[int, str]]:
        """Return the raw input files."""
        return [(i, str(path.absolute())) for i, path in enumerate(self._inputs)]

    @cached_property
    def _kinds(self) -> dict[Path, str]:
        return {path: kind(path) for path in self._inputs}

    @cached_property
    def _shard_files(self) -> list[Path]:
        kinds = ("hdf5",) if "hdf5" in self._kinds.values() else ("parquet", "other")
        return [p for p, k in self._kinds.items() if k in kinds]

    def total(self) -> int:
        """Return the rows of all inputs."""
        return sum(self.rows("id", shard=s).num_rows for s in self.shards())

    def rows(self, *names: str, shard: int | None = None) -> pa.Table:
        """Return columns of the rows that no input has dropped."""
        if self.stage.kind is not Kind.MAP and shard is not None:
            found = self._rows_of(self._shard_files[shard])
        else:
            found = self._all
        missing = [n for n in names if n not in found.column_names]
        for name in missing:
            found = found.append_column(name, self._default(name, found))
        return found.select(list(names))

    def _default(self, name: str, found: pa.Table) -> pa.Array | pa.ChunkedArray:
        if name == "caption" and "text" in found.column_names:
            return found["text"]
        if self.stage.name == "export" and name in _OPTIONAL:
            return pa.nulls(found.num_rows, pair.schema(pair.owner(name)).field(name).type)
        if name in ("text", "caption"):
            return pa.array([""] * found.num_rows, pa.string())
        raise UserError(
            f"The stage {self.stage.name} needs the column {name}; the inputs have {', '.join(found.column_names)}. "
            "Give the table that holds it with a further --input; tables are joined by id."
        )

    @cached_property
    def _all(self) -> pa.Table:
        groups: dict[tuple[str, ...], list[pa.Table]] = {}
        for path in self._inputs:
            part = self._rows_of(path)
            if part.num_columns and "word" not in part.column_names:
                groups.setdefault(tuple(sorted(part.column_names)), []).append(part)
        if not groups:
            raise WorkError("No input could be read as rows for this stage; the messages above name each file.")
        first, *others = (pa.concat_tables(parts, promote_options="default") for parts in groups.values())
        for other in others:
            first = _join(first, other)
        return first

    def _rows_of(self, path: Path) -> pa.Table:
        try:
            return self._read(path)
        except (OSError, pa.ArrowException, ValueError, EOFError, tarfile.TarError) as error:
            self.damages_of_files += 1
            self.damage(str(path), f"not readable: {' '.join(str(error).split())[:200]}")
            # A feature file is a shard of its own, and stays one without rows.
            return pa.table({"id": pa.array([], pa.string())}) if self._kinds[path] == "hdf5" else pa.table({})

    def _read(self, path: Path) -> pa.Table:
        found = self._kinds[path]
        if found == "parquet":
            with path.open("rb") as file:
                return self._shift(path, _living(_identified(table.read(file))))
        if found == "hdf5":
            return pa.table({"id": pa.array([row.tobytes().hex() for row in self._features(path).ids], pa.string())})
        if found == "tar":
            return pa.table({}) if self._has_table(path) else self._members(path)
        if found == "empty":
            raise ValueError("the file is empty")
        return self._text_rows(path)

    def _text_rows(self, path: Path) -> pa.Table:
        from toolkit.source.table import rows

        with path.open("rb") as file:
            found = list(rows(file, lambda row, what: self.damage(f"{path} row {row}", what)))
        if not found:
            raise ValueError("no rows of url and text are in it")
        columns = {"url": [r.url for r in found], "text": [r.text for r in found], "page": [r.page for r in found]}
        return _identified(pa.table(columns, schema=pa.schema([(name, pa.string()) for name in columns])))

    def _features(self, path: Path) -> Any:
        from toolkit.data.features import read

        file = path.open("rb")
        self._open.append(file)
        return read(file)

    # Tars: all of them are one stream, so that offsets of many files are one number.

    @cached_property
    def _tars(self) -> list[Path]:
        named = [p for p, k in self._kinds.items() if k == "tar"]
        beside = [p.with_suffix(".tar") for p, k in self._kinds.items() if k == "parquet"]
        return named + [p for p in beside if p not in named and p.is_file() and kind(p) == "tar"]

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *accumulate(p.stat().st_size for p in self._tars)]

    def _has_table(self, tar: Path) -> bool:
        return any(k == "parquet" and p.with_suffix(".tar") == tar for p, k in self._kinds.items())

    def _shift(self, path: Path, rows: pa.Table) -> pa.Table:
        tar = path.with_suffix(".tar")
        if "offset" not in rows.column_names or tar not in self._tars:
            return rows
        at = rows.column_names.index("offset")
        return rows.set_column(at, "offset", pc.add(rows["offset"], self._starts[self._tars.index(tar)]))

    def _members(self, path: Path) -> pa.Table:
        start = self._starts[self._tars.index(path)]
        rows: list[dict[str, Any]] = []
        captions: dict[str, str] = {}
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                stem, suffix = info.name.rpartition(".")[0], Path(info.name).suffix.lower()
                if info.isreg() and suffix in _IMAGES:
                    file = tar.extractfile(info)
                    body = file.read() if file else b""
                    digest = hashlib.blake2b(body, digest_size=16).hexdigest()
                    rows.append(
                        {
                            "id": _hex(stem),
                            "key": stem,
                            "offset": start + info.offset_data,
                            "bytes": info.size,
                            "digest": digest,
                        }
                    )
                elif info.isreg() and suffix == ".txt" and info.size < 1 << 20:
                    file = tar.extractfile(info)
                    captions[stem] = file.read().decode("utf-8", "replace") if file else ""
        found = pa.Table.from_pylist(rows) if rows else pa.table({})
        if rows:
            found = found.append_column("caption", pa.array([captions.get(r["key"], "") for r in rows], pa.string()))
        return found.drop_columns(["key"]) if rows else found

    # What stages ask for.

    def table(self, stage: str, unit: int = 0) -> pa.Table:
        """Return a table that another stage would have written: given as input, counted here, or empty."""
        if stage == "source":
            with self._shard_files[unit].open("rb") as file:
                found = _identified(table.read(file))
            if "dropped" not in found.column_names:
                found = found.append_column("dropped", pa.nulls(found.num_rows, pa.string()))
            return found.select(["id", "dropped"])
        for path, what in self._kinds.items():
            if what == "parquet":
                with path.open("rb") as file:
                    found = table.read(file)
                if set(found.column_names) == set(pair.schema(stage).names):
                    return found
        return self._counted() if stage == "words" else pair.schema(stage).empty_table()

    def find(self, stage: str, column: str, values: Sequence[str]) -> pa.Table:
        """Return rows of a table that was given as input."""
        found = self.table(stage)
        return found.filter(pc.is_in(found[column], value_set=pa.array(values, pa.string())))

    def _counted(self) -> pa.Table:
        folder = files.make(self.books.folder / "words")
        task = PlainTask(BY_NAME["words"], self._inputs, self.config, folder, folder)
        entry_point(task.stage.run)(task)
        (made,) = task.books.finish()
        with (task.books.folder / Path(made.path).name).open("rb") as file:
            return table.read(file)

    def open(self, stage: str, suffix: str, shard: int | None = None) -> IO[bytes]:
        """Open an input: a feature file, or all tars as one stream."""
        if suffix == ".tar":
            return io.BufferedReader(Joined(self._tars), files.BUFFER)
        feature_files = [p for p, k in self._kinds.items() if k == "hdf5"]
        if not feature_files or (self.stage.kind is Kind.MAP and len(feature_files) > 1):
            raise UserError(
                f"The stage {self.stage.name} takes one HDF5 feature file; the inputs have {len(feature_files)}."
            )
        return feature_files[shard or 0].open("rb")

    def write(self, tables: Any, shard: int | None = None) -> None:
        """Write the table; tables of several shards become one."""
        if shard is None:
            super().write(tables)
            return
        self._tables.extend([tables] if isinstance(tables, pa.Table) else tables)
        if shard == self.shards()[-1]:
            super().write(self._tables)

    def checkpoint(self) -> Scratch:
        """Return a place for parts that lives as long as the command."""
        return Scratch(self.books.folder)

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
        self._parts: set[int] = set()

    def parts(self) -> Iterator[int]:
        """Return the parts of this command."""
        yield from sorted(self._parts)

    def load(self, part: int, suffix: str) -> IO[bytes]:
        """Open a part's file."""
        return (self._folder / f"part-{part}{suffix}").open("rb")

    def save(self, part: int, write: Any) -> None:
        """Write a part's files."""
        opened: list[IO[bytes]] = []

        def create(suffix: str) -> IO[bytes]:
            opened.append(files.create(self._folder / f"part-{part}{suffix}"))
            return opened[-1]

        write(create)
        for file in opened:
            file.close()
        self._parts.add(part)


class Joined(io.RawIOBase):
    """Several files read as one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [p.open("rb", buffering=0) for p in paths]
        self._starts = [0, *accumulate(p.stat().st_size for p in paths)]
        self._at = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position in the joined stream."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._starts[-1]}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """Return the position in the joined stream."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read from the file at this position, at most to its end."""
        if self._at >= self._starts[-1]:
            return 0
        index = bisect_right(self._starts, self._at) - 1
        file = self._files[index]
        file.seek(self._at - self._starts[index])
        got = file.readinto(memoryview(buffer)[: self._starts[index + 1] - self._at])
        self._at += got
        return got

    def close(self) -> None:
        """Close all files."""
        for file in self._files:
            file.close()
        super().close()


def _identified(found: pa.Table) -> pa.Table:
    """Return a table with ids: those it has, or made from its url and text."""
    if "id" in found.column_names or "url" not in found.column_names:
        return found
    named = [n for n in ("text", "alt_text", "caption") if n in found.column_names]
    texts = found[named[0]] if named else pa.array([""] * found.num_rows)
    ids = [pair.pair_id(u or "", t or "") for u, t in zip(found["url"].to_pylist(), texts.to_pylist(), strict=True)]
    found = found.append_column("id", pa.array(ids, pa.string()))
    return found if "text" in found.column_names else found.append_column("text", texts)


def _living(found: pa.Table) -> pa.Table:
    if "dropped" not in found.column_names:
        return found
    return found.filter(pc.is_null(found["dropped"])).drop_columns(["dropped"])


def _join(first: pa.Table, other: pa.Table) -> pa.Table:
    """Return the rows of `first` that `other` has too, in the order of `first`, with the new columns of `other`."""
    where = pc.index_in(first["id"], other["id"].combine_chunks())
    kept = first.filter(pc.is_valid(where))
    rows = other.take(where.drop_null())
    for name in other.column_names:
        if name not in kept.column_names:
            kept = kept.append_column(name, rows[name])
    return kept


def _hex(stem: str) -> str:
    """Return the stem if it is an id already, or an id made of it."""
    name = Path(stem).name
    is_id = len(name) == 2 * pair.ID_BYTES and set(name) <= set("0123456789abcdef")
    return name if is_id else pair.pair_id(stem, "")
