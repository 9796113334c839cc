"""Of each set of near-duplicates one image stays: the nearest to the centroid of its set, or the smallest id.

A pure function of the sets and the stored rows. The centroid is the plain sum of the stored rows; distances
to it are compared as integers of 1e-9; ties, and sets of two, go to the smallest id. Sums and dot products
are exact integers (exact.py), so the survivor depends on nothing but the rows.

Memory: some 50 bytes a row for the answer and the order of the sets, and the features of WINDOW_ROWS members
at a time, however large a set is; rows that are alone in their set are never read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from toolkit.dedup.exact import Float, Half, Int, Mask, cosines, dots, steps

WINDOW_ROWS = 4096  # members whose features are held at once, 24 MiB as int64 at 768 values a row


@dataclass(frozen=True, eq=False, slots=True)
class Survivors:
    """The answer for each row, in row order."""

    row: Int  # (n,) row number of the survivor of the row's set
    size: Int  # (n,) members of the set
    distance: Float  # (n,) cosine distance to the centroid, a multiple of 1e-9; 0 for a row that is alone

    @property
    def dropped(self) -> Mask:
        """Return which rows do not stay, (n,)."""
        return np.not_equal(self.row, np.arange(len(self.row)))


def alone(rows: int) -> Survivors:
    """Return the answer where nothing is compared: each row stays, alone in its set."""
    return Survivors(row=np.arange(rows), size=np.ones(rows, dtype=np.int64), distance=np.zeros(rows))


def survivors(
    roots: npt.NDArray[Any],
    ids: npt.NDArray[np.uint8],
    squares: Float,
    take: Callable[[Int], Half],
    keep: Literal["centroid", "first"] = "centroid",
) -> Survivors:
    """Choose who stays.

    roots: (n,) a number that the rows of one set share, from 0 to n-1 · ids: (n, 16) · squares: (n,) x.x,
    from exact.squares · take: row numbers (m,) -> stored rows (m, d). Members of sets of two or more have
    finite rows.
    """
    answer = alone(len(roots))
    answer.size[:] = np.bincount(roots, minlength=len(roots))[roots]
    members = np.flatnonzero(answer.size > 1)
    members = members[np.argsort(roots[members], kind="stable")]
    begins = np.flatnonzero(np.diff(roots[members], prepend=-1) != 0)
    for window in _windows(np.append(begins, len(members))):
        rows = members[window]
        sets = np.unique(roots[rows], return_inverse=True)[1]
        nano = _nano(rows, sets, squares, take)
        answer.distance[rows] = nano / 1e9
        answer.row[rows] = _choose(rows, sets, nano, ids[rows], keep)
    return answer


def _windows(begins: Int) -> Iterator[slice]:
    """Cut ordered members into whole sets: at most WINDOW_ROWS members together, or one larger set alone."""
    first = 0
    while first < len(begins) - 1:
        reach = np.searchsorted(begins, begins[first] + WINDOW_ROWS, side="right") - 1
        last = max(first + 1, int(reach))
        yield slice(int(begins[first]), int(begins[last]))
        first = last


def _nano(rows: Int, sets: Int, squares: Float, take: Callable[[Int], Half]) -> Int:
    """Return each member's cosine distance to its set's centroid in 1e-9, halves rounded up.

    `sets` numbers the sets 0, 1, .. in the order of the rows. The int64 sum is exact for 2^39 unit rows in
    one set, and for 2^23 rows even of float16's largest values. A centroid that is the zero vector is at
    distance 1 of all.
    """
    pieces = [slice(start, start + WINDOW_ROWS) for start in range(0, len(rows), WINDOW_ROWS)]
    centroids = np.zeros((int(sets[-1]) + 1, take(rows[:0]).shape[1]), dtype=np.int64)
    for piece in pieces:
        begins = np.flatnonzero(np.diff(sets[piece], prepend=-1) != 0)
        centroids[sets[piece][begins]] += np.add.reduceat(steps(take(rows[piece])), begins)
    lengths = dots(centroids, centroids)
    nano = np.empty(len(rows), dtype=np.int64)
    for piece in pieces:
        products = dots(steps(take(rows[piece])), centroids[sets[piece]])
        cosine = cosines(products, squares[rows[piece]], lengths[sets[piece]])
        nano[piece] = np.floor((1.0 - cosine) * 1e9 + 0.5)
    return nano


def _choose(rows: Int, sets: Int, nano: Int, ids: npt.NDArray[np.uint8], keep: Literal["centroid", "first"]) -> Int:
    """Return for each member the row that survives its set; equal ids, which no run has, go by row number."""
    by_distance = (np.bincount(sets)[sets] > 2) & (keep == "centroid")
    high, low = np.ascontiguousarray(ids).view(">u8").T
    order = np.lexsort((low, high, np.where(by_distance, nano, 0), sets))
    return rows[order[np.flatnonzero(np.diff(sets[order], prepend=-1) != 0)]][sets]
