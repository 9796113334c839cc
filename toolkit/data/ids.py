"""Ids in columns, as 32 hex digits, and in arrays, as 16 bytes: from one to the other without a Python string each."""

from __future__ import annotations

from binascii import hexlify, unhexlify
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from toolkit.data.pair import ID_BYTES

Ids: TypeAlias = npt.NDArray[np.uint8]  # (n, 16)

DIGITS = 2 * ID_BYTES
PIECE = 1 << 18  # ids that are converted at once: 8 MiB of digits


def array(column: pa.ChunkedArray) -> Ids:
    """Return a column of ids as (n, 16) bytes.

    It is given ids that were checked where they came in: a null, another length or other digits raise ValueError, and
    uppercase digits count as lowercase.
    """
    ids = np.empty((len(column), ID_BYTES), np.uint8)
    for start in range(0, len(column), PIECE):
        digits = column.slice(start, PIECE).combine_chunks().cast(pa.binary()).cast(pa.binary(DIGITS))
        given = digits.buffers()[1][DIGITS * digits.offset : DIGITS * (digits.offset + len(digits))]
        ids[start : start + len(digits)] = np.frombuffer(unhexlify(given), np.uint8).reshape(-1, ID_BYTES)
    return ids


def column(ids: Ids) -> pa.ChunkedArray:
    """Return (n, 16) bytes as a column of ids."""
    parts = (ids[start : start + PIECE] for start in range(0, len(ids), PIECE))
    return pa.chunked_array([_digits(part) for part in parts], pa.string())


def words(ids: Ids) -> npt.NDArray[np.bytes_]:
    """View (n, 16) bytes as (n,) words, to be sorted and looked up; two are equal exactly where all their bytes are."""
    return np.ascontiguousarray(ids).view(f"S{ID_BYTES}")[:, 0]


def _digits(ids: Ids) -> pa.Array:
    ends = np.arange(len(ids) + 1, dtype=np.int32) * DIGITS
    digits = hexlify(ids.tobytes())
    return pa.StringArray.from_buffers(len(ids), pa.py_buffer(ends), pa.py_buffer(digits))
