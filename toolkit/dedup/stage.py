"""The stages `dedup` (each batch by itself) and `merge` (survivors of all batches): near-duplicates, exactly.

One unit holds the stored float16 rows of all its shards, joins them, chooses survivors, and writes one table
a shard. A scope that the configuration does not run writes the same tables with every pair alone in its set.

Memory: the living rows' features as stored (2 bytes a value), about 150 bytes a row besides, and one tile.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from toolkit.data.features import Features, Ids, packed, read, unpacked
from toolkit.data.pair import ID_BYTES, schema
from toolkit.data.stage import Task
from toolkit.data.table import build
from toolkit.dedup.exact import Half, Mask
from toolkit.dedup.join import components
from toolkit.dedup.living import living, windows
from toolkit.dedup.survivors import Survivors, alone, survivors
from toolkit.errors import UserError

STEP = {"dedup": "dedup.batch", "merge": "merge.global"}


def run_batch(task: Task) -> None:
    """Drop the near-duplicates inside each batch (step dedup.batch)."""
    _run(task, "dedup", wanted=task.config.dedup.scope != "global")


def run_merge(task: Task) -> None:
    """Drop the near-duplicates over all batches (step merge.global)."""
    _run(task, "merge", wanted=task.config.dedup.scope != "batch")


def _run(task: Task, stage: str, wanted: bool) -> None:
    parts = [packed(task.rows("id", shard=shard)["id"].to_pylist()) for shard in task.shards()]
    ids = np.concatenate([np.empty((0, ID_BYTES), dtype=np.uint8), *parts])
    if wanted:
        answer, invalid = _search(task, parts, ids)
    else:
        answer, invalid = alone(len(ids)), np.zeros(len(ids), dtype=np.bool_)
        task.advance(len(ids))
    start = 0
    for shard, part in zip(task.shards(), parts, strict=True):
        own = slice(start, start + len(part))
        task.write(_table(stage, ids, answer, invalid, own), shard=shard)
        start = own.stop


def _search(task: Task, parts: Sequence[Ids], ids: Ids) -> tuple[Survivors, Mask]:
    """Return who stays, and which rows are zero or not finite and therefore like nothing."""
    section = task.config.dedup
    rows = _load(task, parts, len(ids))
    forest, squares = components(rows, section.distance, advance=task.advance)
    answer = survivors(forest.roots(), ids, squares, rows.__getitem__, section.keep)
    return answer, ~(squares > 0)


def _load(task: Task, parts: Sequence[Ids], count: int) -> Half:
    """Return the stored features of all living rows, (count, d), in the order of shards and rows."""
    rows: Half = np.empty((0, 0), dtype=np.float16)
    at = 0
    for shard, part in zip(task.shards(), parts, strict=True):
        if not len(part):
            continue
        with task.open("embed", ".h5", shard=shard) as source, read(source) as features:
            if not rows.shape[1]:
                rows = np.empty((count, features.dim), dtype=np.float16)
            _same(features, rows, shard)
            for start, stop, wanted in windows(living(features.ids, part, shard)):
                rows[at : at + len(wanted)] = features.block(start, stop)[wanted]
                at += len(wanted)
    return rows


def _same(features: Features, rows: Half, shard: int) -> None:
    if features.dim != rows.shape[1]:
        raise UserError(
            f"The features of shard {shard} have {features.dim} values a row, those before it {rows.shape[1]}; "
            "only features of one encoder can be compared. Give files of one encoder, or embed them again."
        )


def _table(stage: str, ids: Ids, answer: Survivors, invalid: Mask, own: slice) -> pa.Table:
    reason = np.where(invalid[own], "embed.invalid", STEP[stage])
    columns = {
        "id": unpacked(ids[own]),
        "set": unpacked(ids[answer.row[own]]),
        "size": answer.size[own],
        "distance": answer.distance[own],
        "dropped": pa.array(reason, pa.string(), mask=~(invalid[own] | answer.dropped[own])),
    }
    return build(schema(stage), columns)
