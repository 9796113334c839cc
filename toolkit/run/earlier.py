"""What `dedup.earlier` names: finished runs, whose survivors a new crawl is held against, and files of features.

What they hold, not where they lie, belongs to the recipe: `earlier.jsonl` in the run folder keeps both, the run's
digest covers the first, and nothing is read that has become another since. Of an earlier run its marks count as they
are, those of an older toolkit too: what it published is what it published. Nothing of it is written or locked.

Of a file of features all ids count, its shape, its attributes, and BLOCKS blocks of its rows, so that a file of any
size is told from another in about the time that reading its ids takes. Rows that change between these go unnoticed.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING

from toolkit.config.config import canonical
from toolkit.config.embed import Embed
from toolkit.data import ids, table
from toolkit.data.ids import Ids
from toolkit.data.stage import Output, Stage
from toolkit.errors import UserError, WorkError
from toolkit.recipe import BY_NAME
from toolkit.run import files
from toolkit.run.layout import relative
from toolkit.run.ledger import fold_digest

if TYPE_CHECKING:
    from toolkit.data.features import Features  # which needs HDF5
    from toolkit.run.run import Run  # which imports this module

NAMES = ("encoder", "weights", "resize")
BLOCKS, BLOCK_ROWS = 64, 64  # of a file, evenly over its rows: 14 MB of descriptors
ID_ROWS = 1 << 14  # ids of a file that are read at once: 256 KiB


@dataclass(frozen=True, slots=True)
class Source:
    """A run folder, or a file of features."""

    path: str  # absolute
    content: str  # of a run a digest of its recipe and what it published; of a file its name, size and digest


@dataclass(frozen=True, slots=True)
class File:
    """A published file, or (digest null) a user's own."""

    path: Path
    size: int
    digest: str | None

    def open(self) -> IO[bytes]:
        """Open the file for reading; raises WorkError where it is not the one that was published."""
        if not self.path.exists() or self.path.stat().st_size != self.size:
            raise WorkError(f"{self.path}, of an earlier run, is missing or has another size; restore it from a copy.")
        if self.digest is not None and files.digest(self.path) != self.digest:
            raise WorkError(f"{self.path}, of an earlier run, is damaged: its bytes are not those of its mark.")
        return self.path.open("rb", buffering=files.BUFFER)


@dataclass(frozen=True, slots=True)
class Piece:
    """The survivors of one shard of an earlier run, or the rows of a file (ids null)."""

    name: str
    rows: int
    features: File
    table: File | None

    def ids(self) -> Ids | None:
        """Return the ids of the rows, in the order of the features; None for the rows of a file."""
        if self.table is None:
            return None
        with self.table.open() as file:
            return ids.array(table.read(file, ["id"])["id"])

    def open(self) -> IO[bytes]:
        """Open the features, which may have more rows."""
        return self.features.open()


def find(patterns: Sequence[str], root: Path | None = None) -> list[Source]:
    """Return what the patterns name, each once, in the order of what they hold, which is that of their rows.

    What lies in `root`, the folder of the run that asks, is left out of what a glob pattern matches. Raises UserError
    where a run is not there or not finished, WorkError where a file is damaged.
    """
    found = []
    for pattern in patterns:
        found.append(_matches(pattern, root))
        if not found[-1]:
            raise UserError(
                f"dedup.earlier: {pattern} matches nothing (working directory {Path.cwd()}); give folders of finished "
                "runs, files of features, or a glob pattern."
            )
    return sorted(map(_source, _each(found)), key=lambda source: (source.content, source.path))


def present(patterns: Sequence[str], root: Path | None = None) -> list[Path]:
    """Return what the patterns match now, each once; nothing of it is opened, and a pattern may match nothing."""
    return _each(_matches(pattern, root) for pattern in patterns)


def _each(found: Iterable[list[Path]]) -> list[Path]:
    return list(dict.fromkeys(chain.from_iterable(found)))


def _matches(pattern: str, root: Path | None) -> list[Path]:
    if Path(pattern).exists():
        if _within(pattern, root):
            raise UserError(
                f"dedup.earlier names {pattern}, which is in the folder of this very run, {root}; name runs before it."
            )
        return [Path(pattern).absolute()]
    found = sorted(glob.glob(pattern, recursive=True))
    return [Path(path).absolute() for path in found if not _within(path, root)]


def _within(path: str, root: Path | None) -> bool:
    return root is not None and Path(path).resolve().is_relative_to(root.resolve())


def _source(path: Path) -> Source:
    if path.is_dir():
        return Source(str(path), _digest(_made(_open(path))))
    if not path.is_file():  # a pipe would be waited for, a device never ends
        raise UserError(
            f"dedup.earlier names {path}, which is neither a folder nor a file; give folders of finished runs, or "
            "files of features."
        )
    file = _own(path)
    with _features(file) as features:
        return Source(str(path), f"{path.name} {file.size} {_digest(_stored(features))}")


def _digest(parts: Iterable[bytes]) -> str:
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        hasher.update(part)
    return hasher.hexdigest()


def _made(run: Run) -> Iterator[bytes]:
    """Return what tells an earlier run from others: its recipe, and what it published."""
    yield canonical([run.digest, *(_fold(run, name) for name in ("embed", "export"))])


def _stored(features: Features) -> Iterator[bytes]:
    """Return what tells a file from others: what it says of itself, its ids, and blocks of rows from all over."""
    rows = len(features)
    yield canonical([rows, features.dim, features.attributes])
    for start in range(0, rows, ID_ROWS):
        yield features.ids(start, min(start + ID_ROWS, rows)).tobytes()
    last = max(0, rows - BLOCK_ROWS)
    for start in sorted({last * number // (BLOCKS - 1) for number in range(BLOCKS)}):
        yield features.block(start, min(start + BLOCK_ROWS, rows)).tobytes()


def _own(path: Path) -> File:
    return File(path, path.stat().st_size, None)


def _open(path: Path) -> Run:
    """Open an earlier run; raises UserError where it is none, or not finished."""
    from toolkit.run.run import open_run

    run = open_run(path)
    export = BY_NAME["export"]
    closing = run.ledger.entry(export, run.units(export))
    if closing is None or closing.mark.inputs != {"export": _fold(run, "export")}:
        raise UserError(
            f"dedup.earlier names the run {path}, which is not finished. Finish it with `danqing run`, or name files "
            "of features in its place (all of their rows count)."
        )
    return run


def _fold(run: Run, name: str) -> str:
    """Return one digest of what a stage published."""
    stage = BY_NAME[name]
    found = run.ledger.entries(stage).columns.among(range(run.units(stage)))
    return fold_digest(found.units.tolist(), found["digest"].tolist())


def pieces(source: Source) -> list[Piece]:
    """Return the rows of a source in parts, those without rows left out.

    Raises WorkError where it holds something else than when it was named, UserError where features were given up.
    """
    path = Path(source.path)
    if not path.exists() or _source(path) != source:
        raise WorkError(
            f"{path}, which dedup.earlier names, is not what it was when this run was started; restore it, or give "
            "another run_dir and begin a new run."
        )
    if path.is_dir():
        return _survivors(_open(path))
    file = _own(path)
    with _features(file) as features:
        rows = len(features)
    return [Piece(str(path), rows, file, None)] if rows else []


def _survivors(run: Run) -> list[Piece]:
    if gone := sorted({"embed", "export"} & run.cleaned):
        raise UserError(
            f"dedup.earlier names the run {run.layout.root}, but `danqing clean` gave up its data of "
            f"{', '.join(gone)}. A run that later ones are held against is cleaned with `--keep export,features`."
        )
    found = []
    for shard in run.ledger.entries(BY_NAME["export"]):
        if shard < run.units(BY_NAME["export"]):
            kept = _output(run, BY_NAME["export"], shard, ".parquet")
            features = _output(run, BY_NAME["embed"], shard, ".h5")
            if kept.rows:
                name = f"shard {shard} of {run.layout.root}"
                found.append(Piece(name, kept.rows, _file(run, "embed", features), _file(run, "export", kept)))
    return found


def _output(run: Run, stage: Stage, shard: int, suffix: str) -> Output:
    entry = run.ledger.entry(stage, shard)
    found = next((o for o in entry.mark.outputs if o.path == relative(shard, suffix)), None) if entry else None
    if found is None:
        raise UserError(
            f"dedup.earlier names the run {run.layout.root}, which has no {stage.folder} of shard {shard}; see what "
            f"`danqing verify {run.layout.root}` says."
        )
    return found


def _file(run: Run, stage: str, output: Output) -> File:
    return File(run.layout.file(BY_NAME[stage], output.path), output.bytes, output.digest)


def _features(file: File) -> AbstractContextManager[Features]:
    from toolkit.data.features import opened

    return opened(file.open(), f"what dedup.earlier names ({file.path})")


def fit(sources: Sequence[Source], section: Embed) -> None:
    """Raise UserError where the features of a source are not those that the encoder of this run makes.

    The stage compares them too; here it is said before a crawl is fetched for nothing.
    """
    if not sources:
        return
    from toolkit.embed.encoder import load

    encoder = load(section)
    wanted = {"encoder": encoder.name, "weights": encoder.weights, "resize": encoder.resize, "dim": encoder.dim}
    for source in sources:
        for piece in pieces(source)[:1]:
            with _features(piece.features) as features:
                has = features.attributes | {"dim": features.dim}
            for name in (*NAMES, "dim"):
                if name in has and has[name] != wanted[name]:
                    raise UserError(
                        f"dedup.earlier: the features of {source.path} have the {name} {has[name]}, those of this run "
                        f"{wanted[name]}; only features of one encoder can be compared. Embed one of the two again."
                    )


def lines(sources: Sequence[Source]) -> bytes:
    """Return what `earlier.jsonl` says."""
    return "".join(json.dumps([source.path, source.content]) + "\n" for source in sources).encode()


def parsed(data: bytes) -> list[Source]:
    """Return what `lines` wrote; raises ValueError or TypeError where it is something else."""
    return [Source(*json.loads(line)) for line in data.splitlines()]


def key(sources: Sequence[Source]) -> dict[str, str]:
    """Return by what a checkpoint is known that counts the rows of these sources, in their order; nothing for none."""
    contents = [source.content for source in sources]
    return {"earlier": _digest([canonical(contents)])} if contents else {}
