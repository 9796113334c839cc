"""What many marks say in digests and numbers, as columns by unit: a million marks are judged and summed in a blink.

A column is named as the mark's field: `digest`, `living` and `input.STAGE` hold 32 hex digits, or nothing; `seconds` is
a float; all others (`version`, `rows_in`, `drops.STEP`, ...) are integers. A column that no mark names reads as nothing
or zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Record = Mapping[str, Any]
"""One row: what is neither zero nor nothing, by column; the unit apart."""
Column = npt.NDArray[Any]

WIDTH = 32
DIGEST = np.dtype(f"S{WIDTH}")
NOTHING = b""
_OTHER = b"?"


def digest(text: str) -> bytes:
    """Return a digest as columns hold it, or for any other text what is not `real`."""
    return text.encode() if len(text) == WIDTH and text.isascii() and text.isalnum() else _OTHER


def real(digests: Column) -> npt.NDArray[np.bool_]:
    """Return which of a column's digests are digests."""
    found: npt.NDArray[np.bool_] = (digests != NOTHING) & (digests != _OTHER)
    return found


def kind(name: str) -> np.dtype[Any]:
    """Return the type of a column."""
    if name in ("digest", "living") or name.startswith("input."):
        return DIGEST
    return np.dtype(np.float64 if name == "seconds" else np.int64)


@dataclass(frozen=True, slots=True)
class Columns:
    """One row a unit."""

    units: Column
    """The units, ascending, each once."""
    named: Mapping[str, Column]
    """The columns, as long as `units`."""

    def __getitem__(self, name: str) -> Column:
        return self.named[name] if name in self.named else np.zeros(len(self.units), kind(name))

    def at(self, name: str, row: int) -> Any:
        """Return one value of a column, without making a column that is absent."""
        return self.named[name][row] if name in self.named else kind(name).type()

    def names(self, prefix: str) -> list[str]:
        """Return the columns whose name begins so."""
        return [name for name in self.named if name.startswith(prefix)]

    def take(self, rows: Column | slice) -> Columns:
        """Return some rows, chosen by a mask, their numbers, or a slice."""
        return Columns(self.units[rows], {name: column[rows] for name, column in self.named.items()})

    def by_unit(self, name: str, units: int) -> Column:
        """Return a column as it is for the units 0 to `units` - 1; nothing or zero for those that have no row."""
        rows = slice(*np.searchsorted(self.units, (0, units)))
        column = np.zeros(units, kind(name))
        column[self.units[rows]] = self[name][rows]
        return column

    def among(self, units: range) -> Columns:
        """Return the rows of consecutive units."""
        return self.take(slice(*np.searchsorted(self.units, (units.start, units.stop))))

    def changed(self, news: Mapping[int, Record | None]) -> Columns:
        """Return these rows with some units replaced, added, or (None) left out."""
        old = self.take(~np.isin(self.units, list(news)))
        new = columns({unit: record for unit, record in news.items() if record is not None})
        return joined([old, new])


def columns(records: Mapping[int, Record]) -> Columns:
    """Return the records of some units as columns."""
    rows: Sequence[Record] = [records[unit] for unit in sorted(records)]
    names = dict.fromkeys(name for row in rows for name in row)
    made = {name: np.array([row.get(name, 0) for row in rows], kind(name)) for name in names if _numeric(name)}
    made |= {name: np.array([row.get(name, NOTHING) for row in rows], kind(name)) for name in names if name not in made}
    return Columns(np.array(sorted(records), np.int64), made)


def joined(parts: Sequence[Columns]) -> Columns:
    """Return the rows of all parts, of which no two have a unit in common."""
    parts = [columns({}), *parts]
    names = dict.fromkeys(name for part in parts for name in part.named)
    units = np.concatenate([part.units for part in parts])
    found = Columns(units, {name: np.concatenate([part[name] for part in parts]) for name in names})
    return found if (np.diff(units) > 0).all() else found.take(np.argsort(units))


def _numeric(name: str) -> bool:
    return kind(name).kind != "S"


def to_arrow(found: Columns) -> pa.Table:
    """Return the columns as a table, `unit` first."""
    arrays = {"unit": pa.array(found.units)} | {name: _arrow(column) for name, column in sorted(found.named.items())}
    return pa.table(arrays)


def _arrow(column: Column) -> pa.Array[Any]:
    if column.dtype.kind != "S":
        return pa.array(column)
    data = pa.py_buffer(np.ascontiguousarray(column))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(WIDTH), len(column), [None, data])


def from_arrow(found: pa.Table) -> Columns:
    """Return a table of `to_arrow` as columns; raises ValueError or KeyError where it is none."""
    made = {name: _numpy(name, found[name].combine_chunks()) for name in found.schema.names}
    units = made.pop("unit")
    if not (np.diff(units) > 0).all():
        raise ValueError("the units do not ascend")
    return Columns(units, made)


def _numpy(name: str, array: pa.Array[Any]) -> Column:
    expected = pa.from_numpy_dtype(kind(name)) if _numeric(name) else pa.binary(WIDTH)
    if array.type != expected or array.null_count:
        raise ValueError(f"column {name} is {array.type} with {array.null_count} nulls")
    if _numeric(name) or not len(array):
        return np.asarray(array.to_numpy(zero_copy_only=False), kind(name))
    return np.frombuffer(array.buffers()[1], kind(name), len(array), array.offset * WIDTH)
