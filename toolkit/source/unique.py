"""Stage unique: of equal ids that passed source.*, the first in input order (shard, row) stays.

One unit works on one part of the ids, told by their first 12 bits, and holds only the ids of that part: 24 bytes a
pair, never an object a row. It writes the dropped rows only, sorted by shard and row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from toolkit.data.pair import ID_BYTES, schema
from toolkit.data.table import ROW_GROUP, build

# No mapping of reject functions as in other stages: whether a pair is the first of its id is a fact about all pairs and
# not a function of its own columns.
STEP = "source.duplicate"

# Bits of the id that choose its part, so at most 4,096 parts.
PART_BITS = 12
ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("shard", "<i4"), ("row", "<i4")])
_Entries = npt.NDArray[np.void]


def entries(ids: pa.ChunkedArray, rows: npt.NDArray[np.int64], shard: int, part: int, parts: int) -> _Entries:
    """Return the entries (m,) of ENTRY of those ids (n, 32 hex digits) that belong to a part, in input order.

    `rows` (n,) are the ids' row numbers in their shard's source table.
    """
    digits = _digits(ids)
    first = (digits[:, 0].astype(np.int64) << 4) | (digits[:, 1] >> 4)
    mine = np.flatnonzero(first * parts >> PART_BITS == part)
    found = np.zeros(len(mine), ENTRY)
    words = np.ascontiguousarray(digits[mine]).view(">u8")
    found["high"], found["low"] = words[:, 0], words[:, 1]
    found["shard"], found["row"] = shard, rows[mine]
    return found


def duplicates(found: _Entries) -> tuple[_Entries, _Entries]:
    """Return the entries after the first of their id, sorted by (shard, row), and for each the first one.

    `found` (n,) of ENTRY is in input order; a stable sort by id keeps that order among equal ids.
    """
    order = np.lexsort((found["low"], found["high"]))
    high, low = found["high"][order], found["low"][order]
    again = np.zeros(len(order), np.bool_)
    again[1:] = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
    first = np.maximum.accumulate(np.where(again, 0, np.arange(len(order))))
    dropped, kept = found[order[again]], found[order[first[again]]]
    by_place = np.lexsort((dropped["row"], dropped["shard"]))
    return dropped[by_place], kept[by_place]


def _digits(ids: pa.ChunkedArray) -> npt.NDArray[np.uint8]:
    """Return the ids as bytes (n, 16)."""
    text = pc.cast(ids, pa.string()).combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    text = pa.concat_arrays([text]) if text.offset else text
    buffer = text.buffers()[2]
    codes = np.frombuffer(buffer, np.uint8, 2 * ID_BYTES * len(text)) if len(text) else np.zeros(0, np.uint8)
    nibbles = (codes & 0x0F) + 9 * (codes >> 6)  # "0"-"9" are 0x30-0x39, "a"-"f" are 0x61-0x66
    pairs = nibbles.reshape(-1, ID_BYTES, 2)
    return ((pairs[:, :, 0] << 4) | pairs[:, :, 1]).astype(np.uint8, copy=False)


def _hex(found: _Entries) -> list[str]:
    return [f"{high:016x}{low:016x}" for high, low in zip(found["high"].tolist(), found["low"].tolist(), strict=True)]


def run(task: Any) -> None:
    """Write the dropped rows of the task's part (`task.unit` of `task.parts`) of the ids of all its shards."""
    found = [_shard(task.table("source", shard), shard, task) for shard in task.shards()]
    dropped, kept = duplicates(np.concatenate([np.zeros(0, ENTRY), *found]))
    task.write(_tables(dropped, kept))


def _shard(source: pa.Table, shard: int, task: Any) -> _Entries:
    alive = pc.is_null(source["dropped"])
    rows = np.flatnonzero(alive.to_numpy())
    part = entries(source["id"].filter(alive), rows, shard, task.unit, task.parts)
    task.advance(source.num_rows)
    return part


def _tables(dropped: _Entries, kept: _Entries) -> Iterator[pa.Table]:
    for at in range(0, max(len(dropped), 1), ROW_GROUP):
        some, first = dropped[at : at + ROW_GROUP], kept[at : at + ROW_GROUP]
        columns = {
            "id": _hex(some),
            "shard": np.ascontiguousarray(some["shard"]),
            "row": np.ascontiguousarray(some["row"]),
            "first_shard": np.ascontiguousarray(first["shard"]),
            "first_row": np.ascontiguousarray(first["row"]),
            "dropped": [STEP] * len(some),
        }
        yield build(schema("unique"), columns)
