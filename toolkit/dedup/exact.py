"""Dot products of float16 rows without any rounding error, so that no result depends on the order of a sum.

A finite float16 is a multiple of 2^-24 ("a step"). Rows are therefore taken as int64 in steps, a dot product
is an integer, and only that integer is rounded, once and to nearest, to float64. This holds for rows of any
length, on any hardware, for any number of threads; unit rows never leave the fast path.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Half: TypeAlias = npt.NDArray[np.float16]
Float: TypeAlias = npt.NDArray[np.float64]
Int: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.bool_]

STEP = 2.0**-24
LIMB_BITS = 20
CHUNK_VALUES = 1 << 21  # values converted at once: 16 MiB as int64
CACHED_ROWS = 256  # rows converted at once where the result is looked at once: they stay in the cache


def chunk(dim: int) -> int:
    """Return how many rows of `dim` values are handled at once."""
    return max(1, CHUNK_VALUES // max(1, dim))


def steps(rows: Half) -> Int:
    """Return finite float16 values as integers of 2^-24."""
    return (rows.astype(np.float64) / STEP).astype(np.int64)


def dots(x: Int, y: Int) -> Float:
    """Return x.y of each pair of rows, twice (n, d) in steps -> (n,) float64, rounded once.

    int64 sums are exact modulo 2^64, so they are right where |x.y| < 2^63. That is certain where d times the
    largest values of x and y stay below 2^62, which unit rows do by far; for the others `_wide` takes over.
    """
    near: Float = np.einsum("ij,ij->i", x, y).astype(np.float64)
    peaks = np.abs(x).max(axis=1, initial=0).astype(np.float64) * np.abs(y).max(axis=1, initial=0)
    wide = np.flatnonzero(peaks * x.shape[1] >= 2.0**62)
    if wide.size:
        near[wide] = _wide(x[wide], y[wide])
    near *= STEP**2
    return near


def _wide(x: Int, y: Int) -> Float:
    """Return x.y in steps squared where it may outgrow int64: by limbs of 20 bits and Python integers."""
    total = np.zeros(len(x), dtype=object)
    for i, a in enumerate(_limbs(x)):
        for j, b in enumerate(_limbs(y)):
            total += np.einsum("ij,ij->i", a, b).astype(object) << (LIMB_BITS * (i + j))
    return total.astype(np.float64)


def _limbs(values: Int) -> list[Int]:
    """Cut integers into limbs of 20 bits, lowest first; only the last, which has the sign, can be negative."""
    limbs = []
    while np.abs(values).max() >= 1 << LIMB_BITS:
        limbs.append(values & ((1 << LIMB_BITS) - 1))
        values = values >> LIMB_BITS
    return [*limbs, values]


def squares(rows: Half) -> Float:
    """Return x.x of each row, (n, d) float16 -> (n,) float64, rounded once; NaN where a row is not finite.

    Below 32 float64 is exact in any order: each term is a multiple of 2^-48, and no partial sum is larger than x.x.
    """
    result = np.empty(len(rows))
    for start in range(0, len(rows), CACHED_ROWS):
        part = rows[start : start + CACHED_ROWS].astype(np.float64)
        result[start : start + CACHED_ROWS] = np.vecdot(part, part)
    others = np.flatnonzero(~(result < 32.0))
    size = chunk(rows.shape[1])
    for start in range(0, len(others), size):
        result[others[start : start + size]] = _long_squares(rows[others[start : start + size]])
    return result


def products(x: Half, y: Half, xx: Float, yy: Float) -> Float:
    """Return x.y of each pair of finite rows, twice (n, d) float16 -> (n,) float64, rounded once; xx, yy: `squares`.

    Where |x||y| is below 32 float64 is exact, as in `squares`: no partial sum is larger than that.
    """
    result: Float = np.vecdot(x.astype(np.float64), y.astype(np.float64))
    long = np.flatnonzero(~(xx * yy < 1000.0))
    if long.size:
        result[long] = dots(steps(x[long]), steps(y[long]))
    return result


def _long_squares(rows: Half) -> Float:
    result = np.full(len(rows), np.nan)
    finite = np.isfinite(rows).all(axis=1)
    whole = steps(rows[finite])
    result[finite] = dots(whole, whole)
    return result


def cosines(xy: Float, xx: Float, yy: Float) -> Float:
    """Return x.y / sqrt((x.x)(y.y)) in float64; 0 where one of the two is the zero vector.

    Each operation here is correctly rounded by IEEE 754, so the value is the same on every machine.
    """
    length = np.sqrt(xx * yy)
    return np.divide(xy, length, out=np.zeros_like(xy), where=length > 0)
