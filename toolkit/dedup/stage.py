"""The stages `dedup` (each batch by itself) and `merge` (survivors of all batches): near-duplicates, exactly.

The ranks of a world share one unit: each holds the stored float16 rows of a run of its shards; they join them
(ring.py), choose survivors, and rank 0 writes one table a shard. A scope that the configuration does not run writes
the same tables with every pair alone in its set. The tables are the same bytes for any number of ranks.

Memory of a rank: its part of the living rows' features as stored (2 bytes a value), about 250 bytes for each of these
rows, 5 bytes for every row of the unit, and the blocks and tiles of ring.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from toolkit.data.features import Features, Ids, packed, read, unpacked
from toolkit.data.pair import ID_BYTES, schema
from toolkit.data.stage import Task
from toolkit.data.table import build
from toolkit.data.world import World
from toolkit.dedup.exact import Half, Mask
from toolkit.dedup.ledger import Ledger
from toolkit.dedup.living import living, windows
from toolkit.dedup.ring import components
from toolkit.dedup.share import Share, block_rows
from toolkit.dedup.survivors import Survivors, alone, survivors
from toolkit.errors import UserError

STEP = {"dedup": "dedup.batch", "merge": "merge.global"}
# A row's answer on its way to rank 0.
ANSWER = np.dtype(
    [("id", "u1", ID_BYTES), ("set", "u1", ID_BYTES), ("size", "i8"), ("distance", "f8"), ("out", "?"), ("bad", "?")]
)


def run_batch(task: Task) -> None:
    """Drop the near-duplicates inside each batch (step dedup.batch)."""
    _run(task, "dedup", wanted=task.config.dedup.scope != "global")


def run_merge(task: Task) -> None:
    """Drop the near-duplicates over all batches (step merge.global)."""
    _run(task, "merge", wanted=task.config.dedup.scope != "batch")


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of a shard that this rank holds."""

    shard: int
    start: int  # first of its living rows
    ids: Ids  # of all its living rows
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def _run(task: Task, stage: str, wanted: bool) -> None:
    counts, known = _counts(task)
    share = Share(task.world, sum(counts.values()), block_rows(sum(counts.values())))
    pieces = _pieces(task, share, counts, known)
    own = [piece.ids[piece.start : piece.stop] for piece in pieces]
    ids = np.concatenate([np.empty((0, ID_BYTES), dtype=np.uint8), *own])
    if wanted:
        answer, invalid = _search(task, share, pieces, ids)
    else:
        answer, invalid = alone(share, ids), np.zeros(len(ids), dtype=np.bool_)
        task.advance(share.rows)
    _write(task, stage, share, counts, _packed(ids, answer, invalid))


def _ids(task: Task, shard: int) -> Ids:
    return packed(task.rows("id", shard=shard)["id"].to_pylist())


def _counts(task: Task) -> tuple[dict[int, int], dict[int, Ids]]:
    """Return the living rows of every shard, counted by all ranks together, and the ids that this one has read."""
    world = task.world
    shards = world.bcast(list(task.shards()))
    mine = shards[world.rank * len(shards) // world.size : (world.rank + 1) * len(shards) // world.size]
    known = {shard: _ids(task, shard) for shard in mine}
    counts: dict[int, int] = {}
    for part in world.allgather({shard: len(ids) for shard, ids in known.items()}):
        counts |= part
    return counts, known


def _pieces(task: Task, share: Share, counts: dict[int, int], known: dict[int, Ids]) -> list[Piece]:
    """Return the parts of shards that this rank holds, in order, those without rows left out."""
    pieces, at = [], 0
    for shard, count in counts.items():
        start, stop = max(share.begin - at, 0), min(share.end - at, count)
        if start < stop:
            ids = known.pop(shard) if shard in known else _ids(task, shard)
            pieces.append(Piece(shard, start, ids, stop))
        at += count
    return pieces


def _search(task: Task, share: Share, pieces: Sequence[Piece], ids: Ids) -> tuple[Survivors, Mask]:
    """Return who stays, and which rows are zero or not finite and therefore like nothing."""
    section = task.config.dedup
    rows = _load(task, pieces, len(ids))
    ledger = Ledger(share, rows.shape[1], section.distance, task.checkpoint)
    forest, squares = components(share, rows, section.distance, ledger, advance=task.advance, stopping=task.stopping)
    answer = survivors(share, forest.parent, ids, squares, rows, keep=section.keep, stopping=task.stopping)
    return answer, ~(squares > 0)


def _load(task: Task, pieces: Sequence[Piece], count: int) -> Half:
    """Return the stored features of this rank's living rows, (count, d), in the order of shards and rows."""
    rows: Half = np.empty((0, 0), dtype=np.float16)
    dims: list[tuple[int, int]] = []
    at = 0
    for piece in pieces:
        with task.open("embed", ".h5", shard=piece.shard) as source, read(source) as features:
            dims.append((piece.shard, features.dim))
            _same(dims)
            if not rows.shape[1]:
                rows = np.empty((count, features.dim), dtype=np.float16)
            _read(features, piece, rows[at : at + len(piece)])
            at += len(piece)
    dims = [dim for part in task.world.allgather(dims) for dim in part]
    _same(dims)
    return rows if pieces or not dims else np.empty((0, dims[0][1]), dtype=np.float16)


def _read(features: Features, piece: Piece, rows: Half) -> None:
    """Fill (m, d) with a piece of a shard, read once from front to back."""
    at = 0
    for start, stop, wanted in windows(living(features.ids, piece.ids, piece.shard)[piece.start : piece.stop]):
        rows[at : at + len(wanted)] = features.block(start, stop)[wanted]
        at += len(wanted)


def _same(dims: Sequence[tuple[int, int]]) -> None:
    for shard, dim in dims:
        if dim != dims[0][1]:
            raise UserError(
                f"The features of shard {shard} have {dim} values a row, those before it {dims[0][1]}; "
                "only features of one encoder can be compared. Give files of one encoder, or embed them again."
            )


def _packed(ids: Ids, answer: Survivors, invalid: Mask) -> npt.NDArray[Any]:
    """Return the answers of this rank's rows, (m,) of ANSWER."""
    packed_ = np.empty(len(ids), dtype=ANSWER)
    packed_["id"], packed_["set"], packed_["size"] = ids, answer.id, answer.size
    packed_["distance"], packed_["out"], packed_["bad"] = answer.distance, answer.dropped, invalid
    return packed_


def _write(task: Task, stage: str, share: Share, counts: dict[int, int], own: npt.NDArray[Any]) -> None:
    """Write the table of each shard on rank 0, to which the ranks give their parts one shard after the other."""
    at = 0
    for shard, count in counts.items():
        cuts = np.clip(share.borders, at, at + count)
        if share.world.rank == 0:
            task.write(_table(stage, _collected(share.world, cuts - at, own[at : at + count])), shard=shard)
        elif cuts[share.world.rank] < cuts[share.world.rank + 1]:
            part = own[cuts[share.world.rank] - share.begin : cuts[share.world.rank + 1] - share.begin]
            share.world.send(part, 0).wait()
        at += count


def _collected(world: World, cuts: npt.NDArray[np.int64], own: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the answers of a shard of which rank r holds the rows from cuts[r] to cuts[r + 1]; rank 0's are given."""
    answers = np.empty(int(cuts[-1]), dtype=ANSWER)
    answers[: cuts[1]] = own[: cuts[1]]
    for rank in range(1, world.size):
        if cuts[rank] < cuts[rank + 1]:
            world.receive(answers[cuts[rank] : cuts[rank + 1]], rank).wait()
    return answers


def _table(stage: str, answers: npt.NDArray[Any]) -> pa.Table:
    reason = np.where(answers["bad"], "embed.invalid", STEP[stage])
    columns = {
        "id": unpacked(answers["id"]),
        "set": unpacked(answers["set"]),
        "size": answers["size"],
        "distance": answers["distance"],
        "dropped": pa.array(reason, pa.string(), mask=~(answers["bad"] | answers["out"])),
    }
    return build(schema(stage), columns)
