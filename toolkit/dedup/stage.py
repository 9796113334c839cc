"""The stages `dedup` (each batch by itself) and `merge` (survivors of all batches): near-duplicates, exactly.

The ranks of a world share one unit: each holds the stored float16 rows of a run of its shards; they join them
(ring.py), choose survivors, and rank 0 writes one table a shard. A scope that the configuration does not run writes
the same tables with every pair alone in its set. The tables are the same bytes for any number of ranks.

With earlier rows, those of `dedup.earlier`, edges between two rows of the unit and between one of them and an earlier
one make the sets; edges between two earlier rows are not looked for. Of a set that holds earlier rows the one of these
with the smallest id stays, and all rows of the unit are dropped (step merge.earlier); its size and centroid are those
of all its members, earlier ones too. The tables have the unit's rows alone. A row of the unit with the id of an
earlier one is a row like any other.

Memory of a rank: its part of the living rows' features as stored (2 bytes a value), and of the earlier ones', about 200
bytes for each of these rows, and the blocks and tiles of ring.py; of a node 4 bytes (8 from 2^31 on) for every row of
the unit and every earlier one. Of a file of features, plain or earlier, a rank reads its own rows and their ids alone;
of a shard of a run, and of files beside which tables are given, the ids of all rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from toolkit.data.features import FeatureError, Features, opened
from toolkit.data.ids import Ids, column
from toolkit.data.pair import ID_BYTES, schema
from toolkit.data.stage import Earlier, Task
from toolkit.data.table import build
from toolkit.data.world import World
from toolkit.dedup import ivf
from toolkit.dedup.exact import Float, Half, Int, Mask
from toolkit.dedup.forest import Forest
from toolkit.dedup.ledger import Ledger
from toolkit.dedup.living import READ_ROWS, living, windows
from toolkit.dedup.ring import components
from toolkit.dedup.share import Share, block_rows
from toolkit.dedup.survivors import Keep, Survivors, alone, survivors
from toolkit.errors import UserError

STEP = {"dedup": "dedup.batch", "merge": "merge.global"}
KNOWN = "merge.earlier"
ATTRIBUTES = ("encoder", "weights", "resize")  # which features files may have, and by which they can be told apart
WRITE_ROWS = 1 << 17  # rows of a table that rank 0 has at once: 7 MB of answers, 15 MB as columns
# A row's answer on its way to rank 0.
ANSWER = np.dtype(
    [
        *(("id", "u1", ID_BYTES), ("set", "u1", ID_BYTES), ("size", "i8"), ("distance", "f8")),
        *(("out", "?"), ("known", "?"), ("bad", "?")),
    ]
)


def run_batch(task: Task) -> None:
    """Drop the near-duplicates inside each batch (step dedup.batch)."""
    _run(task, "dedup", wanted=task.config.dedup.scope != "global")


def run_merge(task: Task) -> None:
    """Drop the near-duplicates over all batches (step merge.global), and of earlier runs (step merge.earlier)."""
    _run(task, "merge", wanted=task.config.dedup.scope != "batch")


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard of this unit, to be read as earlier rows are."""

    task: Task
    number: int

    @property
    def name(self) -> str:
        """Return what it is called."""
        return self.task.called(self.number)

    def ids(self) -> Ids | None:
        """Return the ids of its living rows; None where these are all the rows of the features' file."""
        return self.task.ids(self.number)

    def open(self) -> IO[bytes]:
        """Open its features."""
        return self.task.open("embed", ".h5", shard=self.number)


Source: TypeAlias = Shard | Earlier


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of a shard, or of earlier rows, that this rank holds."""

    source: Source
    rows: int  # living ones, of the whole source
    start: int  # first of its living rows
    stop: int
    alive: Ids | None  # of all its living rows; None where these are all the rows of the features' file

    def __len__(self) -> int:
        return self.stop - self.start

    @contextmanager
    def open(self) -> Iterator[Features]:
        """Open its features; raises WorkError where they are not those whose rows were counted."""
        with opened(self.source.open(), self.source.name) as found:
            if self.alive is None and len(found) != self.rows:
                raise FeatureError(f"The file has {len(found)} rows and had {self.rows} when they were counted.")
            yield found

    def ids(self, features: Features | None = None) -> Ids:
        """Return the ids of the part; `features` is the file where it is open already."""
        if self.alive is not None:
            return self.alive[self.start : self.stop]
        with nullcontext(features) if features else self.open() as found:
            return found.ids(self.start, self.stop)

    def windows(self, features: Features) -> Iterator[tuple[int, int, Int | slice]]:
        """Give the parts of the file that hold the piece: start, stop, wanted rows from start on."""
        if self.alive is not None:
            yield from windows(living(features.ids(), self.alive, self.source.name)[self.start : self.stop])
            return
        for start in range(self.start, self.stop, READ_ROWS):
            yield start, min(start + READ_ROWS, self.stop), slice(None)


@dataclass(frozen=True, eq=False, slots=True)
class Own:
    """What this rank holds of the rows, those of the unit first; where nothing is compared the ids alone."""

    ids: Ids
    rows: Half
    worth: Float | None  # where the best of a set stays


def _run(task: Task, stage: str, wanted: bool) -> None:
    share, counts, own = _own(task, stage, wanted)
    if wanted:
        answer, invalid = _search(task, stage, share, own)
    else:
        answer, invalid = alone(share, own.ids), np.zeros(share.own, dtype=np.bool_)
        task.advance(share.rows)
    _write(task, stage, share, counts, _packed(share, own.ids[: share.own], answer, invalid))


def _own(task: Task, stage: str, wanted: bool) -> tuple[Share, dict[int, int], Own]:
    """Return how the rows are shared, how many each shard has, and what this rank holds."""
    counts, known = _counts(task)
    earlier = task.world.bcast(list(task.earlier()) if wanted and task.world.rank == 0 else [])
    rows, kept = sum(counts.values()), sum(source.rows for source in earlier)
    share = Share(task.world, rows, block_rows(rows), kept, block_rows(kept))
    shards = [(Shard(task, shard), count) for shard, count in counts.items()]
    pieces = _pieces(range(share.begin, share.end), shards, known)
    pieces += _pieces(share.older, [(source, source.rows) for source in earlier])
    if not wanted:
        parts = [np.empty((0, ID_BYTES), dtype=np.uint8), *(piece.ids() for piece in pieces)]
        return share, counts, Own(np.concatenate(parts), np.empty((0, 0), dtype=np.float16), None)
    worth = _worth(task, pieces) if _keep(task, stage) == "best" else None
    return share, counts, Own(*_load(task.world, pieces), worth)


def _keep(task: Task, stage: str) -> Keep:
    """Return by what the survivor of a set is chosen."""
    keep: Keep = task.config.dedup.keep
    return "centroid" if stage == "dedup" and task.config.dedup.by_align else keep


def _counts(task: Task) -> tuple[dict[int, int], dict[int, Ids | None]]:
    """Return the living rows of every shard, counted by all ranks together, and the ids that this one has read."""
    world = task.world
    shards = world.bcast(list(task.shards()))
    mine = shards[world.rank * len(shards) // world.size : (world.rank + 1) * len(shards) // world.size]
    known = {shard: task.ids(shard) for shard in mine}
    counts: dict[int, int] = {}
    for part in world.allgather({shard: _count(Shard(task, shard), ids) for shard, ids in known.items()}):
        counts |= part
    return counts, known


def _count(shard: Shard, alive: Ids | None) -> int:
    if alive is not None:
        return len(alive)
    with opened(shard.open(), shard.name) as features:
        return len(features)


def _pieces(
    part: range,
    counts: Iterable[tuple[Source, int]],
    known: Mapping[int, Ids | None] = MappingProxyType({}),
) -> list[Piece]:
    """Return the pieces of which this rank's part of the rows is made, in order."""
    pieces, at = [], 0
    for source, count in counts:
        start, stop = max(part.start - at, 0), min(part.stop - at, count)
        if start < stop:
            alive = known[source.number] if isinstance(source, Shard) and source.number in known else source.ids()
            pieces.append(Piece(source, count, start, stop, alive))
        at += count
    return pieces


def _search(task: Task, stage: str, share: Share, own: Own) -> tuple[Survivors, Mask]:
    """Return who stays, and which rows are zero or not finite and therefore like nothing."""
    forest, squares = _sets(task, share, own.rows)
    given = forest.parent, own.ids, squares, own.rows
    answer = survivors(share, *given, keep=_keep(task, stage), worth=own.worth, stopping=task.stopping)
    return answer, ~(squares[: share.own] > 0)


def _sets(task: Task, share: Share, rows: Half) -> tuple[Forest, Float]:
    """Return the sets, found as the configuration says, and the squared lengths of this rank's rows."""
    section = task.config.dedup
    if section.backend == "exact":
        ledger = Ledger(share, rows.shape[1], section.distance, task.checkpoint)
        return components(
            share,
            rows,
            section.distance,
            ledger,
            device=section.device,
            tell=lambda said: task.note("join", said),
            advance=task.advance,
            stopping=task.stopping,
        )
    return ivf.components(
        share,
        rows,
        section.distance,
        lists=section.lists,
        probes=section.probes,
        tally=task.tally,
        tell=lambda said: task.note("join", said),
        advance=task.advance,
        stopping=task.stopping,
    )


def _worth(task: Task, pieces: Sequence[Piece]) -> Float:
    """Return the column by which the best of a set is known, (m,) of this rank's rows: higher is better, else NaN."""
    best: str = task.config.dedup.best
    name = best.removeprefix("-")
    parts = [np.empty(0)]
    for piece in pieces:
        if not isinstance(piece.source, Shard):  # an earlier row stays whatever it is worth
            parts.append(np.full(len(piece), np.nan))
            continue
        column = task.rows(name, shard=piece.source.number)[name].slice(piece.start, len(piece))
        whole = column.cast(pa.float64(), safe=False).fill_null(np.nan)  # a size beyond 2^53 is rounded
        parts.append(whole.to_numpy())
    found: Float = np.concatenate(parts)
    return -found if best.startswith("-") else found


def _load(world: World, pieces: Sequence[Piece]) -> tuple[Ids, Half]:
    """Return the ids (m, 16) of this rank's living rows and their stored features (m, d), in the order of pieces.

    Both come from one opening of a file, so that no id stands beside features that were put there since.
    """
    count = sum(map(len, pieces))
    ids, rows = np.empty((count, ID_BYTES), dtype=np.uint8), np.empty((0, 0), dtype=np.float16)
    kinds: list[Kind] = []
    at = 0
    for piece in pieces:
        part = slice(at, at + len(piece))
        with piece.open() as features:
            kinds.append(Kind.of(piece.source, features))
            _same(kinds)
            if not rows.shape[1]:
                rows = np.empty((count, features.dim), dtype=np.float16)
            ids[part] = piece.ids(features)
            _read(features, piece, rows[part])
        at = part.stop
    kinds = [kind for some in world.allgather(kinds) for kind in some]
    _same(sorted(kinds, key=lambda kind: kind.earlier))
    return ids, rows if pieces or not kinds else np.empty((0, kinds[0].dim), dtype=np.float16)


def _read(features: Features, piece: Piece, rows: Half) -> None:
    """Fill (m, d) with the features of a piece, read once from front to back."""
    at = 0
    for start, stop, wanted in piece.windows(features):
        block = features.block(start, stop)[wanted]
        rows[at : at + len(block)] = block
        at += len(block)


@dataclass(frozen=True, slots=True)
class Kind:
    """What a file says of its features."""

    name: str
    earlier: bool
    dim: int
    said: Mapping[str, str]  # of ATTRIBUTES

    @classmethod
    def of(cls, source: Source, features: Features) -> Kind:
        """Return what the file of a source says."""
        said = {name: str(features.attributes[name]) for name in ATTRIBUTES if name in features.attributes}
        return cls(source.name, not isinstance(source, Shard), features.dim, said)


def _same(kinds: Sequence[Kind]) -> None:
    """Raise UserError where rows are of different length or, as their files say, of another encoder than the first."""
    first: dict[str, tuple[str, str]] = {}
    for kind in kinds:
        for name, value in {"dim": str(kind.dim), **kind.said}.items():
            there, other = first.setdefault(name, (kind.name, value))
            if value != other:
                which = ", which dedup.earlier names," if kind.earlier else ""
                raise UserError(
                    f"The features of {kind.name}{which} have the {name} {value}, those of {there} {other}; only "
                    "features of one encoder can be compared. Give files of one encoder, or embed one of them again."
                )


def _packed(share: Share, ids: Ids, answer: Survivors, invalid: Mask) -> npt.NDArray[Any]:
    """Return the answers of this rank's rows of the unit, (m,) of ANSWER."""
    packed = np.empty(len(ids), dtype=ANSWER)
    packed["id"], packed["set"], packed["size"] = ids, answer.id, answer.size
    packed["distance"], packed["out"], packed["bad"] = answer.distance, answer.dropped, invalid
    packed["known"] = answer.row >= share.rows
    return packed


def _write(task: Task, stage: str, share: Share, counts: Mapping[int, int], own: npt.NDArray[Any]) -> None:
    """Write the tables of the shards on rank 0, to which the ranks give their rows of one part after the other."""
    if share.world.rank == 0:
        parts = ((shard, _collected(share, start, stop, own)) for shard, start, stop in _parts(counts))
        task.write_shards((shard, _table(stage, answers)) for shard, answers in parts)
        return
    for _, start, stop in _parts(counts):
        first, last = np.clip((share.begin, share.end), start, stop)
        if first < last:
            share.world.send(own[first - share.begin : last - share.begin], 0).wait()


def _parts(counts: Mapping[int, int]) -> Iterator[tuple[int, int, int]]:
    """Give the parts in which tables are made: the shard, and its rows from start to stop - 1 of the unit."""
    at = 0
    for shard, count in counts.items():
        for start in range(0, max(1, count), WRITE_ROWS):
            yield shard, at + start, at + min(start + WRITE_ROWS, count)
        at += count


def _collected(share: Share, start: int, stop: int, own: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the answers of the rows start to stop - 1 of the unit; those of rank 0, the first ones, are given."""
    cuts = np.clip(share.borders, start, stop) - start
    answers = np.empty(stop - start, dtype=ANSWER)
    answers[: cuts[1]] = own[start : start + cuts[1]]
    for rank in range(1, share.world.size):
        if cuts[rank] < cuts[rank + 1]:
            share.world.receive(answers[cuts[rank] : cuts[rank + 1]], rank).wait()
    return answers


def _table(stage: str, answers: npt.NDArray[Any]) -> pa.Table:
    reasons = pa.array([STEP[stage], KNOWN, "embed.invalid"], pa.string())
    reason = np.where(answers["bad"], 2, answers["known"]).astype(np.int8)
    columns = {
        "id": column(answers["id"]),
        "set": column(answers["set"]),
        "size": answers["size"],
        "distance": answers["distance"],
        "dropped": reasons.take(pa.array(reason, mask=~(answers["bad"] | answers["out"]))),
    }
    return build(schema(stage), columns)
