"""Which rows are alive at a stage's input, and their columns, gathered from whichever earlier stage measured them.

Each stage's table has one row for each row alive at its input, in order. So row j of a stage's table is the j-th
living row of the table before it, and a column measured three stages ago is found by composing three masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from toolkit.data.pair import owner
from toolkit.data.verdict import alive
from toolkit.errors import WorkError


class Source(Protocol):
    """Where the tables of one shard are."""

    def read(self, stage: str, columns: Sequence[str]) -> pa.Table:
        """Return columns of the stage's table of this shard."""

    def duplicates(self) -> npt.NDArray[np.int64]:
        """Return the rows of the source table that `unique` drops."""


def gather(chain: Sequence[str], names: Sequence[str], source: Source, unique: bool) -> pa.Table:
    """Return the named columns of the rows that are alive after the stages in `chain` (nearest first, source last).

    `unique` says whether duplicates of earlier pairs are left out. Raises WorkError where two tables do not fit.
    """
    wanted = {name: chain[0] if name == "id" else owner(name) for name in names}
    found: dict[str, pa.ChunkedArray] = {}
    position: npt.NDArray[np.int64] | None = None
    rows = -1
    for stage in chain:
        columns = [name for name in names if wanted[name] == stage]
        table = source.read(stage, [*columns, "dropped"])
        living = alive(table)
        if unique and stage == "source":
            living = np.setdiff1d(living, source.duplicates(), assume_unique=True)
        if position is not None and rows != len(living):
            raise WorkError(
                f"The stage after {stage} has {rows} rows where {stage} left {len(living)}; "
                "their tables are not of one run. `danqing verify` shows which shard to redo."
            )
        position = living if position is None else living[position]
        rows = table.num_rows
        for name in columns:
            found[name] = table[name].take(pa.array(position))
        if len(found) == len(names):
            break
    return pa.table({name: found[name] for name in names})
