"""What is done is a fact on disk: a unit is done when it has a mark that fits its inputs and the stage's version.

A job's exit state says nothing. Publishing has one commit point: an attempt that has everything on disk links its
`winner` name (exclusive). Then its files are linked into data/, and the mark last. Whoever finds a winner without a
mark, a later attempt or a parallel one, carries that winner's files forward; so two attempts at once, or a dead
node that goes on writing, never mix their files, even where their bytes differ (what the network answered).

The marks of a finished stage are folded into one table: what they count and depend on as columns, and their text,
which is read for the units that somebody asks for. The marks themselves stay, and count where the fold can not be read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from toolkit.data import table
from toolkit.data.stage import Output, Stage, stem
from toolkit.errors import WorkError
from toolkit.run import files
from toolkit.run.columns import Columns, Record, columns, from_arrow, joined, to_arrow
from toolkit.run.columns import digest as column_digest
from toolkit.run.layout import Layout, relative


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """What a finished unit leaves: its files, what they were made of, and what was counted."""

    stage: str
    """Folder of the stage, e.g. 30_fetch."""
    unit: int
    """The unit: a shard, a batch, a part of the ids, or the closing unit."""
    version: int
    """The stage's version; another one makes the mark stale."""
    outputs: list[Output]
    """The published files."""
    inputs: dict[str, str]
    """For each stage that this unit is made of, the digest of its mark, or of its marks folded; another one makes the
    mark stale."""
    rows_in: int
    """Rows written, and rejected rows that were only counted."""
    rows_out: int
    """Rows written that no step dropped."""
    living: str = ""
    """Digest of the ids and captions of the rows that no step dropped, in order; in text, for fetch, and empty
    elsewhere."""
    drops: dict[str, int] = {}
    """Rows dropped, by step."""
    counts: dict[str, int] = {}
    """Rows changed, by rewriting step."""
    tallies: dict[str, int] = {}
    """Other numbers by name: of source `records`, `records.damaged`, `pages`, `links.no_src`, `links.data`,
    `links.no_alt`, and with `rejects: counts` `language.CODE` and `host.NAME` of the rejected rows; of dedup and merge
    with `backend: faiss` `recall.queries`, `recall.edges`, `recall.found` and `search.repeated`."""
    damages: int = 0
    """Bad records and files that were passed over."""
    damage: list[tuple[str, str]] = []
    """The first 100 of them: where, and what."""
    facts: dict[str, Any] = {}
    """What may differ between two runs of the same work, and is not digested: `host`, `attempt`, `started` (UTC),
    `seconds`, `toolkit` (its version), `job` (that of Slurm, or array element; null where there was none); of dedup and
    merge `join`, a list of how its ranks compared images, in words."""

    @property
    def digest(self) -> str:
        """32 hex digits of what the unit gives to those after it: files and counts.

        Its inputs and version are left out, so that a unit that was done again and came out the same leaves what
        depends on it as it is. The text of damages is left out, because it has paths, and data may move.
        """
        tree = msgspec.to_builtins(self)
        for name in ("facts", "damage", "inputs", "version"):
            del tree[name]
        return hashlib.blake2b(msgspec.json.encode(tree, order="sorted"), digest_size=16).hexdigest()


def record(mark: Mark, stamp: int) -> Record:
    """Return what a mark says in digests and numbers; `stamp` tells its text from that of any other attempt."""
    return {
        "digest": mark.digest.encode(),
        "stamp": stamp,
        "version": mark.version,
        **({"living": column_digest(mark.living)} if mark.living else {}),
        "rows_in": mark.rows_in,
        "rows_out": mark.rows_out,
        "bytes": sum(output.bytes for output in mark.outputs),
        "seconds": float(mark.facts.get("seconds", 0)),
        "ended": _ended(mark.facts),
        "damages": mark.damages,
        **{f"input.{name}": column_digest(digest) for name, digest in mark.inputs.items()},
        **{f"drops.{step}": rows for step, rows in mark.drops.items()},
        **{f"counts.{step}": rows for step, rows in mark.counts.items()},
    }


def _ended(facts: Mapping[str, Any]) -> int:
    """Return when an attempt ended, in seconds since 1970; 0 where its facts do not tell."""
    try:
        return int(datetime.fromisoformat(facts["started"]).timestamp() + float(facts["seconds"]))
    except (KeyError, TypeError, ValueError):
        return 0


@dataclass(frozen=True, slots=True)
class Entry:
    """A mark as the ledger remembers it."""

    digest: str
    living: str
    stamp: int
    read: Callable[[], Mark]

    @property
    def mark(self) -> Mark:
        """The whole mark, which may be read only now; raises WorkError where it is gone."""
        return self.read()


class Marks(Mapping[int, Entry]):
    """The marks of many units of one stage, ascending."""

    def __init__(self, columns: Columns, read: Callable[[int], Mark]) -> None:
        self.columns, self._read = columns, read

    @cached_property
    def _rows(self) -> dict[int, int]:
        return {unit: row for row, unit in enumerate(self.columns.units.tolist())}

    def __getitem__(self, unit: int) -> Entry:
        row = self._rows[unit]
        digest, living, stamp = (self.columns.at(name, row) for name in ("digest", "living", "stamp"))
        return Entry(digest.decode(), living.decode(), int(stamp), partial(self._read, unit))

    def __iter__(self) -> Iterator[int]:
        return iter(self.columns.units.tolist())

    def __len__(self) -> int:
        return len(self.columns.units)

    def sum(self, name: str) -> int:
        """Return the sum of a column, e.g. "rows_out" or "drops.STEP"."""
        return int(self.columns[name].sum())

    def only(self, rows: Any) -> Marks:
        """Return some of them, chosen by a mask."""
        return Marks(self.columns.take(rows), self._read)


def fold_digest(units: Iterable[int], digests: Iterable[bytes]) -> str:
    """Return one digest for the marks of many units, ascending."""
    lines = "".join([f"{unit} {digest.decode()}\n" for unit, digest in zip(units, digests, strict=True)])
    return hashlib.blake2b(lines.encode(), digest_size=16).hexdigest()


# Marks are many small files: threads hide the time that a network file system takes to open each, and 4 cost nothing
# on a local one.
_READERS = 4
_PIECE = 1 << 16
_TEXT = "mark"  # the column of a fold that holds the marks' text
_PARQUET: dict[str, Any] = {  # digests gain nothing from a dictionary, and a fold of few units is half the size so
    "compression": "zstd",
    "use_dictionary": False,
    "write_statistics": False,
    "write_page_checksum": True,
    "store_schema": False,
}


@dataclass(slots=True)
class Ledger:
    """Reads marks once and remembers what they say in digests and numbers; `forget` after others may have written."""

    layout: Layout
    folds: bool = True  # whether folded marks are read; `verify` compares them with the marks themselves
    _known: dict[str, Marks] = field(default_factory=dict)
    _folds: dict[str, Fold] = field(default_factory=dict)  # those that `_known` was read from
    _news: dict[str, dict[int, Record | None]] = field(default_factory=dict)  # what is not in `_known` yet

    def entries(self, stage: Stage) -> Marks:
        """Return the marks of a stage by unit, valid or stale."""
        if stage.name not in self._known:
            self._known[stage.name] = Marks(self._load(stage), partial(self._mark, stage))
        elif news := self._news.pop(stage.name, None):
            known = self._known[stage.name].columns
            self._known[stage.name] = Marks(known.changed(news), partial(self._mark, stage))
        return self._known[stage.name]

    def entry(self, stage: Stage, unit: int) -> Entry | None:
        """Return one unit's mark; looks on the disk where it was not known yet."""
        known = self._known.get(stage.name)
        if known is not None and unit in known and unit not in self._news.get(stage.name, {}):
            return known[unit]
        found = self._look(stage, unit)
        if found is None:
            return None
        mark, stamp = found
        return Entry(mark.digest, mark.living, stamp, lambda: mark)

    def forget(self, stage: Stage | None = None) -> None:
        """Read again what is asked for next."""
        for name in [stage.name] if stage else list(self._known):
            for memory in (self._known, self._folds, self._news):
                memory.pop(name, None)

    def add(self, stage: Stage, unit: int) -> None:
        """Take note of one unit that was finished just now."""
        found = self._look(stage, unit)
        self._note(stage, unit, None if found is None else record(*found))

    def _note(self, stage: Stage, unit: int, news: Record | None) -> None:
        self._folds.pop(stage.name, None)  # its text may be an older one
        if stage.name in self._known:
            self._news.setdefault(stage.name, {})[unit] = news

    def retract(self, stage: Stage, unit: int) -> None:
        """Take back a unit that was judged stale, damaged or not done: first the fold and the mark, then its files.

        Where the mark on the disk is another one than was judged, somebody finished the unit meanwhile: it stays.
        """
        judged, found = self.entry(stage, unit), self._look(stage, unit)
        if found is not None and (judged is None or found[1] != judged.stamp):
            self._note(stage, unit, record(*found))
            return
        outputs = self._outputs(stage, unit) if judged else []
        self._note(stage, unit, None)
        files.remove(self.layout.folded(stage))
        files.remove(self.layout.mark(stage, unit))
        for output in outputs:
            files.remove(self.layout.file(stage, output.path))

    def _outputs(self, stage: Stage, unit: int) -> list[Output]:
        try:
            return self._mark(stage, unit).outputs
        except WorkError:
            return []  # its files have no mark then, and are replaced by the next attempt's

    def fold(self, stage: Stage) -> None:
        """Write all marks of a finished stage into one table, which is read instead of thousands of files."""
        found = self.entries(stage).columns
        if stage.name in self._folds:
            return
        sink, head = pa.BufferOutputStream(), to_arrow(found)
        schema = head.schema.append(pa.field(_TEXT, pa.string()))
        try:
            with pq.ParquetWriter(sink, schema, **_PARQUET) as writer:
                for row in range(0, len(found.units), table.ROW_GROUP):
                    writer.write_table(self._with_text(stage, head.slice(row, table.ROW_GROUP)))
        except WorkError:
            return  # somebody is at the marks; a fold is made where they are at rest
        files.replace(self.layout.folded(stage), sink.getvalue().to_pybytes())
        self._folds[stage.name] = Fold(self.layout.folded(stage), found)

    def _with_text(self, stage: Stage, piece: pa.Table) -> pa.Table:
        """Add the marks' text to some rows; raises WorkError where it is not the one that the rows were made of."""
        texts = []
        for unit, known in zip(piece["unit"].to_pylist(), piece["stamp"].to_pylist(), strict=True):
            text = _text(self.layout.mark(stage, unit))
            if text is None or stamp(text) != known:
                raise WorkError(f"{stage.folder} {stem(unit)}: its mark has changed.")
            texts.append(text)
        return piece.append_column(_TEXT, pa.array(texts, pa.binary()).cast(pa.string()))

    def _load(self, stage: Stage) -> Columns:
        if self.folds and (fold := read_fold(self.layout.folded(stage))):
            self._folds[stage.name] = fold
            return fold.columns
        folders = sorted(self.layout.stage(stage).glob("done/*/"))
        with ThreadPoolExecutor(_READERS) as pool:
            return joined([_columns(stage, texts) for texts in pool.map(_texts, folders)])

    def _look(self, stage: Stage, unit: int) -> tuple[Mark, int] | None:
        """Return the mark of one unit as it is on the disk now, and its stamp."""
        text = _text(self.layout.mark(stage, unit))
        mark = None if text is None else _decode(text, stage, unit)
        return None if text is None or mark is None else (mark, stamp(text))

    def _mark(self, stage: Stage, unit: int) -> Mark:
        """Return one unit's mark, from the fold where the stage was read from it and is as it was."""
        fold = self._folds.get(stage.name)
        mark = fold.mark(stage, unit) if fold else None
        if mark is None and (found := self._look(stage, unit)):
            mark = found[0]
        if mark is None:
            raise WorkError(f"{self.layout.mark(stage, unit)} is gone or damaged; `danqing verify` shows what else is.")
        return mark


@dataclass(slots=True)
class Fold:
    """The folded marks of a stage: columns in memory, text in the file, some thousand marks of which are kept."""

    path: Path
    columns: Columns
    _group: int = -1
    _texts: list[str] = field(default_factory=list)

    def mark(self, stage: Stage, unit: int) -> Mark | None:
        """Return one unit's mark; None where the file has changed or is damaged, which is no loss."""
        group, row = divmod(int(self.columns.units.searchsorted(unit)), table.ROW_GROUP)
        try:
            if group != self._group:
                with self.path.open("rb") as file:
                    rows = table.opened(file).read_row_group(group, [_TEXT], use_threads=False)
                self._group, self._texts = group, rows[_TEXT].to_pylist()
            return _decode(self._texts[row].encode(), stage, unit)
        except (OSError, pa.ArrowException, LookupError):
            return None


def read_fold(path: Path) -> Fold | None:
    """Return a fold; None where there is none, an older toolkit's, or a damaged one, which is no loss."""
    try:
        with path.open("rb") as file:
            parquet = table.opened(file)
            names = [name for name in parquet.schema_arrow.names if name != _TEXT]
            found = from_arrow(parquet.read(names, use_threads=False))
        if not {"digest", "stamp", "version"} <= set(found.named):
            return None
        return Fold(path, found)
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None


def stamp(text: bytes) -> int:
    """Return 63 bits that tell one mark's text from another's."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1


def _texts(folder: Path) -> list[tuple[int, bytes]]:
    """Return the texts of the marks of up to a thousand units."""
    with os.scandir(folder) as there:
        names = {file.name.removesuffix(".json") for file in there}
    units = sorted(
        int(name) for name in names if name.isdecimal() and relative(int(name), "") == f"{folder.name}/{name}"
    )
    found = ((unit, _text(f"{folder}/{stem(unit)}.json")) for unit in units)
    return [(unit, text) for unit, text in found if text is not None]


def _columns(stage: Stage, texts: Iterable[tuple[int, bytes]]) -> Columns:
    marks = ((unit, text, _decode(text, stage, unit)) for unit, text in texts)
    return columns({unit: record(mark, stamp(text)) for unit, text, mark in marks if mark is not None})


def _text(path: Path | str) -> bytes | None:
    """Return what a small file holds in four calls of the system, where `read_bytes` takes seven.

    Only an empty answer is the end: a network file system may give less than was asked for.
    """
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        pieces = [os.read(file, _PIECE)]
        while pieces[-1]:
            pieces.append(os.read(file, _PIECE))
        return b"".join(pieces)
    finally:
        os.close(file)


_DECODER = msgspec.json.Decoder(Mark)


def _decode(text: bytes, stage: Stage, unit: int) -> Mark | None:
    """Return the mark of this unit, or None where the text is damaged or another unit's."""
    try:
        mark = _DECODER.decode(text)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None
    return mark if (mark.stage, mark.unit) == (stage.folder, unit) else None


def read_mark(path: Path) -> Mark | None:
    """Return a mark, or None where there is none or its text is damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Mark)
    except (FileNotFoundError, msgspec.DecodeError, msgspec.ValidationError):
        return None


# A winner may be carried forward by others while this attempt looks; more turns than this mean a broken file system.
_TURNS = 10


def publish(layout: Layout, stage: Stage, attempt: Path, mark: Mark) -> None:
    """Publish an attempt whose files are all on disk, unless another attempt was first."""
    winner, final = layout.winner(stage, mark.unit), layout.mark(stage, mark.unit)
    if final.exists():
        return
    files.write(attempt / "mark.json", msgspec.json.encode(mark))
    files.write(attempt / "winner", attempt.name.encode())
    files.sync(attempt)
    for _ in range(_TURNS):
        files.link(attempt / "winner", winner)
        files.sync(winner.parent)
        forward(layout, stage, mark.unit)
        if final.exists():
            _empty(layout.work(stage).glob(f"{stem(mark.unit)}.*"))
            return
    raise WorkError(f"{winner} could not be carried to {final} in {_TURNS} turns; is this file system sound?")


def forward(layout: Layout, stage: Stage, unit: int) -> None:
    """Carry the winner's files to their final names, the mark last. Any number of processes may do so at once."""
    winner, final = layout.winner(stage, unit), layout.mark(stage, unit)
    attempt = chosen(layout, stage, unit)
    if attempt is None:
        return
    mark = read_mark(attempt / "mark.json")
    if mark is None or final.exists():
        # The mark of an attempt is on disk before its winner, so one without is debris: carried to the end and swept
        # by somebody, or late.
        files.remove(winner)
        return
    for output in mark.outputs:
        _place(attempt / Path(output.path).name, layout.file(stage, output.path), output.bytes, final)
    files.make(final.parent)
    for folder in {layout.file(stage, o.path).parent for o in mark.outputs}:
        files.sync(folder)
    if not final.exists():
        files.link(attempt / "mark.json", final)
    files.sync(final.parent)


def chosen(layout: Layout, stage: Stage, unit: int) -> Path | None:
    """Return the folder of the attempt that may publish, or None where none was chosen."""
    winner = layout.winner(stage, unit)
    try:
        return winner.with_name(winner.read_text())
    except FileNotFoundError:
        return None


def _place(source: Path, target: Path, size: int, final: Path) -> None:
    files.make(target.parent)
    while source.exists() and not files.link(source, target):
        if final.exists():
            return
        files.remove(target)  # a left-over without a mark, of a unit that was taken back
    if not target.exists() or target.stat().st_size != size:
        raise WorkError(f"{target} could not be published whole; run `danqing run` again.")


def tidy(layout: Layout, stage: Stage) -> None:
    """Empty the work/ folder of a complete stage: a kill between the mark and the sweep leaves something there."""
    _empty(layout.work(stage).glob("*"))


def _empty(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir():
            files.clear(path)
        else:
            files.remove(path)


def check_output(layout: Layout, stage: Stage, output: Output) -> Path:
    """Return the path of a published file whose bytes are those of its mark; raises WorkError."""
    path = layout.file(stage, output.path)
    where = f"{stage.folder}/data/{output.path}"
    try:
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise WorkError(
            f"{where} is missing although its mark is there; `danqing verify` shows what else is."
        ) from error
    if size != output.bytes or files.digest(path) != output.digest:
        raise WorkError(
            f"{where} is damaged: its bytes are not those of its mark; `danqing verify` shows what else is."
        )
    return path


def stale(entry: Entry, stage: Stage, inputs: Mapping[str, str]) -> bool:
    """Return whether a mark no longer fits the stage's version or its inputs, or is gone since it was read."""
    try:
        mark = entry.mark
    except WorkError:
        return True
    return mark.version != stage.version or mark.inputs != dict(inputs)
