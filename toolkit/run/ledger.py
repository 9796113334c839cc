"""What is done is a fact on disk: a unit is done when it has a mark that fits its inputs and the stage's version.

A job's exit state says nothing. Publishing has one commit point: an attempt that has everything on disk links its
`winner` name (exclusive). Then its files are linked into data/, and the mark last. Whoever finds a winner without a
mark, a later attempt or a parallel one, carries that winner's files forward; so two attempts at once, or a dead
node that goes on writing, never mix their files, even where their bytes differ (what the network answered).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from toolkit.config.config import canonical
from toolkit.data import table
from toolkit.data.stage import Output, Stage, stem
from toolkit.errors import WorkError
from toolkit.run import files
from toolkit.run.layout import Layout


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
    `links.no_alt`, and with `rejects: counts` `language.CODE` and `host.NAME` of the rejected rows."""
    damages: int = 0
    """Bad records and files that were passed over."""
    damage: list[tuple[str, str]] = []
    """The first 100 of them: where, and what."""
    facts: dict[str, Any] = {}
    """What may differ between two runs of the same work, and is not digested: `host`, `attempt`, `started` (UTC),
    `seconds`, `toolkit` (its version)."""

    @property
    def digest(self) -> str:
        """32 hex digits of what the unit gives to those after it: files and counts.

        Its inputs and version are left out, so that a unit that was done again and came out the same leaves what
        depends on it as it is. The text of damages is left out, because it has paths, and data may move.
        """
        tree = msgspec.to_builtins(self)
        for name in ("facts", "damage", "inputs", "version"):
            del tree[name]
        return hashlib.blake2b(canonical(tree), digest_size=16).hexdigest()


@dataclass(slots=True)
class Entry:
    """A mark as the ledger remembers it."""

    mark: Mark
    digest: str


def fold_digest(digests: Iterable[tuple[int, str]]) -> str:
    """Return one digest for the marks of many units."""
    hasher = hashlib.blake2b(digest_size=16)
    for unit, digest in sorted(digests):
        hasher.update(f"{unit} {digest}\n".encode())
    return hasher.hexdigest()


_FOLD = pa.schema([("unit", pa.int32()), ("digest", pa.string()), ("mark", pa.string())])


@dataclass(slots=True)
class Ledger:
    """Reads marks once and remembers them; `forget` after others may have written."""

    layout: Layout
    folds: bool = True  # whether folded marks are read; `verify` compares them with the marks themselves
    _known: dict[str, dict[int, Entry]] = field(default_factory=dict)

    def entries(self, stage: Stage) -> dict[int, Entry]:
        """Return the marks of a stage by unit, valid or stale."""
        if stage.name not in self._known:
            self._known[stage.name] = self._load(stage)
        return self._known[stage.name]

    def entry(self, stage: Stage, unit: int) -> Entry | None:
        """Return one unit's mark; looks on the disk where it was not known yet."""
        known = self._known.get(stage.name, {})
        if unit in known:
            return known[unit]
        mark = read_mark(self.layout.mark(stage, unit))
        return None if mark is None else Entry(mark, mark.digest)

    def forget(self, stage: Stage | None = None) -> None:
        """Read again what is asked for next."""
        if stage is None:
            self._known.clear()
        else:
            self._known.pop(stage.name, None)

    def add(self, stage: Stage, unit: int) -> None:
        """Take note of one unit that was finished just now."""
        known = self.entries(stage)
        known.pop(unit, None)
        entry = self.entry(stage, unit)
        if entry is not None:
            known[unit] = entry

    def retract(self, stage: Stage, unit: int) -> None:
        """Take back a unit that was judged stale, damaged or not done: first the fold and the mark, then its files.

        Where the mark on the disk is another one than was judged, somebody finished the unit meanwhile: it stays.
        """
        judged = self.entry(stage, unit)
        path = self.layout.mark(stage, unit)
        found = read_mark(path)
        self._known.get(stage.name, {}).pop(unit, None)
        if found is not None and (judged is None or found != judged.mark):
            return
        files.remove(self.layout.folded(stage))
        files.remove(path)
        for output in judged.mark.outputs if judged else []:
            files.remove(self.layout.file(stage, output.path))

    def fold(self, stage: Stage) -> None:
        """Write all marks of a finished stage into one table, which is read instead of thousands of files."""
        if self._folded(stage) == self.entries(stage):
            return
        entries = sorted(self.entries(stage).items())
        rows = [(u, e.digest, msgspec.json.encode(e.mark).decode()) for u, e in entries]
        columns = (
            dict(zip(_FOLD.names, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(_FOLD.names, ())
        )
        sink = pa.BufferOutputStream()
        table.write(sink, _FOLD, [table.build(_FOLD, columns)])
        files.replace(self.layout.folded(stage), sink.getvalue().to_pybytes())

    def _load(self, stage: Stage) -> dict[int, Entry]:
        folded = self._folded(stage) if self.folds else None
        if folded is not None:
            return folded
        found = (read_mark(path) for path in sorted(self.layout.stage(stage).glob("done/*/*.json")))
        return {mark.unit: Entry(mark, mark.digest) for mark in found if mark is not None}

    def _folded(self, stage: Stage) -> dict[int, Entry] | None:
        """Return the folded marks; None where there is no fold, or a damaged one, which is no loss."""
        try:
            with self.layout.folded(stage).open("rb") as file:
                rows = table.read(file).to_pydict()
            marks = map(msgspec.json.Decoder(Mark).decode, rows["mark"])
            return {u: Entry(m, d) for u, d, m in zip(rows["unit"], rows["digest"], marks, strict=True)}
        except (OSError, pa.ArrowException, KeyError, ValueError):
            return None


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
    """Return whether a mark no longer fits the stage's version or its inputs."""
    return entry.mark.version != stage.version or entry.mark.inputs != dict(inputs)
