"""The stage `align`: the cosine of each pair's image and text features, and the band in which pairs are kept.

Paper section 3.2, after LAION-400M: Chinese-CLIP-L/14, L2 distance of unit vectors in [1.06, 1.24]. The features are
taken as stored, never normalised, and their products are exact (dedup/exact.py). Memory is one window of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from toolkit.config.embed import Align
from toolkit.data.features import Features, read
from toolkit.data.ids import array
from toolkit.data.pair import schema
from toolkit.data.stage import Task
from toolkit.data.table import build
from toolkit.data.verdict import Reject, values, verdict
from toolkit.dedup.exact import Float, Half, chunk, cosines, dots, squares, steps
from toolkit.dedup.living import living, windows
from toolkit.errors import UserError


def outside(table: pa.Table, section: Align) -> npt.NDArray[np.bool_]:
    """Reject pairs outside the band, whose two ends belong to it, and pairs without a cosine."""
    name = "l2" if section.l2 is not None else "cosine"
    low, high = section.l2 or section.cosine or (-np.inf, np.inf)
    measured = values(table, name)
    return ~((low <= measured) & (measured <= high))


STEPS: Mapping[str, Reject] = MappingProxyType({"align.band": outside})


def measure(image: Half, text: Half) -> dict[str, Float]:
    """Return cosine and l2 of rows (n, d) and (n, d); NaN where a row is zero or not finite."""
    xx, yy = squares(image), squares(text)
    good = np.flatnonzero((xx > 0) & (yy > 0))
    cosine = np.full(len(image), np.nan)
    products = dots(steps(image[good]), steps(text[good]))
    cosine[good] = cosines(products, xx[good], yy[good])
    return {"cosine": cosine, "l2": np.sqrt(np.maximum(2.0 - 2.0 * cosine, 0.0))}


def run(task: Task) -> None:
    """Measure the living pairs of one shard and write the verdicts."""
    with task.open("embed", ".h5") as source, read(source) as features:
        if not features.has_text:
            raise UserError(
                "The features hold no /text, so image and text can not be compared: the stage align needs an encoder "
                "with a text tower. Embed with one, or set `align: null` to leave the step out."
            )
        task.write(_tables(task, features))


def _tables(task: Task, features: Features) -> Iterator[pa.Table]:
    ids = task.rows("id")["id"]
    numbers = living(features.ids(), array(ids), None)
    done = 0
    for start, stop, wanted in windows(numbers, chunk(features.dim)):
        image, text = (features.block(start, stop, name)[wanted] for name in ("image", "text"))
        columns = {name: pa.array(found, mask=np.isnan(found)) for name, found in measure(image, text).items()}
        yield _judged({"id": ids.slice(done, len(wanted)), **columns}, task.config.align)
        done += len(wanted)
        task.advance(len(wanted))


def _judged(columns: Mapping[str, pa.Array | pa.ChunkedArray], section: Align) -> pa.Table:
    table = pa.table(dict(columns))
    return build(schema("align"), {**columns, "dropped": verdict(STEPS, table, section)})
