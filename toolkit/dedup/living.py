"""Which rows of a shard's features file are alive: the file has a row for every pair that was embedded.

The living pairs are a part of them, in the same order, so a file is read once from front to back.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from toolkit.data.ids import Ids, words
from toolkit.dedup.exact import Int
from toolkit.errors import WorkError

READ_ROWS = 8192
GAP_ROWS = 256  # unwanted rows that are read over: 0.4 MB at 768 values, as long as a call of HDF5 takes


def living(stored: Ids, alive: Ids, shard: int | str | None) -> Int:
    """Return the ascending row numbers of the pairs `alive` in a file of the ids `stored`.

    Raises WorkError where they are not all there, in the same order; it names the shard, or what else is given.
    """
    if np.array_equal(words(stored), words(alive)):
        return np.arange(len(stored))
    numbers = np.flatnonzero(np.isin(words(stored), words(alive)))
    if not np.array_equal(stored[numbers], alive):
        where = f"shard {shard}" if isinstance(shard, int) else shard or "the input"
        raise WorkError(
            f"The features of {where} hold {len(numbers)} of the {len(alive)} pairs that are alive here, or hold "
            "them in another order: features and tables are not of one run. `danqing verify` shows which shard "
            "to redo."
        )
    return numbers


def windows(numbers: Int, size: int = READ_ROWS) -> Iterator[tuple[int, int, Int]]:
    """Give the parts of a file that hold the ascending row numbers: start, stop, wanted rows from start on."""
    far = (np.diff(numbers // size) > 0) | (np.diff(numbers) > GAP_ROWS)
    for part in np.split(numbers, np.flatnonzero(far) + 1) if len(numbers) else ():
        yield int(part[0]), int(part[-1]) + 1, part - part[0]
