"""Stage embed: one float16 row an image, and one a caption where the encoder has a text tower, in HDF5.

Every input row has a row in the file, at the same number as in the table; what could not be encoded is zeros there
and `embed.invalid` here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from toolkit.config.embed import Embed
from toolkit.data import features
from toolkit.data.ids import array
from toolkit.data.pair import schema
from toolkit.data.stage import Task
from toolkit.data.table import build
from toolkit.data.verdict import Reject, values, verdict
from toolkit.embed.encoder import Encoder, Features, load
from toolkit.embed.prepare import shape
from toolkit.guard import Fault
from toolkit.image.members import COLUMNS, members
from toolkit.image.stage import guard

BLOCK = 1000  # rows encoded and written at once


def run(task: Task) -> None:
    """Encode every pair of one shard."""
    encoder = load(task.config.embed)
    rows = task.rows(*COLUMNS, *(["caption"] if encoder.text else []))
    norms: list[npt.NDArray[np.float32]] = []
    with task.create(".h5") as sink:
        features.write(
            sink,
            ids=array(rows["id"]),
            image=_measured(_images(task, encoder, rows), norms),
            text=_texts(task, encoder, rows) if encoder.text else None,
            dim=encoder.dim,
            attributes={"encoder": encoder.name, "weights": encoder.weights, "resize": encoder.resize},
        )
    task.write(judge(rows["id"], np.concatenate([*norms, np.zeros(0, np.float32)]), task.config.embed))


def _images(task: Task, encoder: Encoder, rows: pa.Table) -> Iterator[Features]:
    with (
        task.open("fetch", ".tar") as tar,
        guard(task.config.image, "toolkit.embed.prepare:prepared", resize=encoder.resize) as child,
    ):
        for part in _blocks(rows):
            yield _encoded(encoder, list(child.map(members(tar, part, task))))
            task.advance(part.num_rows)


def _encoded(encoder: Encoder, answers: list[bytes | Fault]) -> Features:
    """Encode the images that could be decoded; the others' rows are zeros."""
    found = [row for row, answer in enumerate(answers) if not isinstance(answer, Fault)]
    pixels = np.frombuffer(b"".join(a for a in answers if not isinstance(a, Fault)), np.uint8)
    rows = np.zeros((len(answers), encoder.dim), np.float16)
    rows[found] = encoder.images(pixels.reshape(-1, *shape(encoder.resize)))
    return _finite(rows)


def _texts(task: Task, encoder: Encoder, rows: pa.Table) -> Iterator[Features]:
    for part in _blocks(rows):
        yield _finite(encoder.texts([caption or "" for caption in part["caption"].to_pylist()]))


def _blocks(rows: pa.Table) -> Iterator[pa.Table]:
    return (rows.slice(start, BLOCK) for start in range(0, rows.num_rows, BLOCK))


def _finite(rows: Features) -> Features:
    """Return the rows with each that holds a NaN or an infinity as zeros."""
    return np.where(np.isfinite(rows).all(axis=1, keepdims=True), rows, np.float16(0))


def _measured(blocks: Iterable[Features], norms: list[npt.NDArray[np.float32]]) -> Iterator[Features]:
    for block in blocks:
        norms.append(norm(block))
        yield block


def norm(rows: Features) -> npt.NDArray[np.float32]:
    """Return the length (n,) of stored rows, summed in float64."""
    wide = rows.astype(np.float64)
    lengths: npt.NDArray[np.float32] = np.sqrt((wide * wide).sum(axis=1)).astype(np.float32)
    return lengths


def judge(ids: pa.ChunkedArray, norms: npt.NDArray[np.float32], section: Embed) -> pa.Table:
    """Return the stage's table: the lengths, and `embed.invalid` where there is none."""
    table = build(schema("embed"), {"id": ids, "norm": norms, "dropped": pa.nulls(len(norms), pa.string())})
    return table.set_column(table.num_columns - 1, "dropped", verdict(STEPS, table, section))


def invalid(table: pa.Table, section: Embed) -> npt.NDArray[np.bool_]:
    """Reject rows without a direction: zero, or not finite."""
    length = values(table, "norm")
    return ~(np.isfinite(length) & (length > 0))


STEPS: Mapping[str, Reject] = {"embed.invalid": invalid}
