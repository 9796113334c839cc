"""A verdict is a pure function of measured columns and thresholds: new thresholds need no new measuring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

# A step looks at columns and thresholds and says which rows it rejects: (table, section) -> bool (n,).
Reject = Callable[[pa.Table, Any], npt.NDArray[np.bool_]]


def verdict(steps: Mapping[str, Reject], table: pa.Table, section: Any) -> pa.StringArray:
    """Return for each row null, or the name of the first step (in the mapping's order) that rejects it."""
    first = np.full(table.num_rows, -1, dtype=np.int32)
    for number, reject in enumerate(steps.values()):
        first[(first < 0) & reject(table, section)] = number
    return pa.array(list(steps), pa.string()).take(pa.array(first, pa.int32(), mask=first < 0))


def alive(table: pa.Table) -> npt.NDArray[np.int64]:
    """Return the row numbers whose `dropped` is null."""
    return np.flatnonzero(pc.is_null(table["dropped"]).to_numpy(zero_copy_only=False))


def values(table: pa.Table, name: str, missing: float = np.nan) -> npt.NDArray[np.float64]:
    """Return a numeric column as float64, nulls as `missing`. NaN compares false: a null rejects nothing."""
    column: Any = table[name].cast(pa.float64())
    return np.asarray(column.fill_null(missing).to_numpy(zero_copy_only=False))
