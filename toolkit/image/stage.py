"""Stage image: one decode an image, in a guarded child process; shape, texture, sharpness and entropy measured.

Measures never depend on thresholds (`max_pixels` apart, which decides what is decoded at all). Paper, section 3.2
"visual diversification"; docs/configuration.md says what the paper leaves open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from toolkit.config.image import Image
from toolkit.data.pair import schema
from toolkit.data.stage import Task
from toolkit.data.table import build
from toolkit.data.verdict import Reject, values, verdict
from toolkit.guard import Fault, Guard
from toolkit.image.measures import Measures
from toolkit.image.members import COLUMNS, members

BATCH = 1000  # rows measured between two signs of progress

Rejected = npt.NDArray[np.bool_]


def run(task: Task) -> None:
    """Measure every image of one shard."""
    task.write(_tables(task))


def _tables(task: Task) -> Iterator[pa.Table]:
    section: Image = task.config.image
    rows = task.rows(*COLUMNS)
    with task.open("fetch", ".tar") as tar, guard(section, "toolkit.image.measures:measured") as child:
        for start in range(0, rows.num_rows, BATCH):
            part = rows.slice(start, BATCH)
            answers = child.map(members(tar, part, task))
            yield judge(part["id"], [_row(answer) for answer in answers], section)
            task.advance(part.num_rows)


def guard(section: Image, work: str, **option: str) -> Guard:
    """Return the child process that decodes, within the section's limits."""
    return Guard(
        work,
        {"max_pixels": section.max_pixels, **option},
        memory_mb=section.memory_mb,
        timeout_s=section.timeout_s,
    )


def _row(answer: bytes | Fault) -> Measures:
    if isinstance(answer, Fault):
        return Measures(fault=answer.word)
    return msgspec.msgpack.decode(answer, type=Measures)


def judge(ids: pa.ChunkedArray, rows: list[Measures], section: Image) -> pa.Table:
    """Return the stage's table: the measures and, of each row, the first step that rejects it."""
    fields = {name: [getattr(row, name) for row in rows] for name in Measures.__struct_fields__}
    table = build(schema("image"), {"id": ids, **fields, "dropped": pa.nulls(len(rows), pa.string())})
    return table.set_column(table.num_columns - 1, "dropped", verdict(STEPS, table, section))


def undecodable(table: pa.Table, section: Image) -> Rejected:
    """Reject what no decoder could read."""
    return np.asarray(pc.is_valid(table["fault"]).to_numpy(zero_copy_only=False))


def misshapen(table: pa.Table, section: Image) -> Rejected:
    """Reject aspects beyond `max_aspect` either way, and a shorter side of `min_side` or less."""
    width, height = values(table, "width"), values(table, "height")
    longer, shorter = np.maximum(width, height), np.minimum(width, height)
    rejected = np.zeros(table.num_rows, np.bool_)
    if section.max_aspect is not None:
        rejected |= longer > section.max_aspect * shorter
    if section.min_side is not None:
        rejected |= shorter <= section.min_side
    return rejected


def textureless(table: pa.Table, section: Image) -> Rejected:
    """Reject a standard deviation below `min_texture`."""
    return _below(table, "texture", section.min_texture)


def blurred(table: pa.Table, section: Image) -> Rejected:
    """Reject a variance of the Laplacian below `min_sharpness`."""
    return _below(table, "sharpness", section.min_sharpness)


def empty(table: pa.Table, section: Image) -> Rejected:
    """Reject an entropy below `min_entropy`."""
    return _below(table, "image_entropy", section.min_entropy)


def _below(table: pa.Table, name: str, least: float | None) -> Rejected:
    if least is None:
        return np.zeros(table.num_rows, np.bool_)
    return values(table, name) < least


STEPS: Mapping[str, Reject] = {
    "image.decode": undecodable,
    "image.shape": misshapen,
    "image.texture": textureless,
    "image.blur": blurred,
    "image.entropy": empty,
}
