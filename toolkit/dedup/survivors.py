"""Of each set of near-duplicates one image stays: the nearest to its set's centroid, the smallest id, or the best.

A pure function of the sets and the stored rows. The centroid is the plain sum of the stored rows; distances
to it are compared as integers of 1e-9; ties, and sets of two, go to the smallest id. Sums and dot products
are exact integers (exact.py), so the survivor depends on nothing but the rows. What is best is given as a number for
each row, and compared as it is.

A set that holds earlier rows loses all others: of the earlier rows, which are not this join's to drop, the one of the
smallest id stands for the set. All members count for its size and its centroid. Sets of earlier rows alone are left.

Each set is decided by one rank, which fetches the members' features from the ranks that hold them, a window at a time.
Memory: some 50 bytes for each row that this rank holds, some 220 for each member of the sets that it decides, and the
features of WINDOW_ROWS members, however large a set is; rows that are alone in their set are never read.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from toolkit.data.features import Ids
from toolkit.data.stage import Stopped
from toolkit.dedup.exact import Float, Half, Int, Mask, cosines, dots, steps
from toolkit.dedup.share import Share, dealt, swap

Keep: TypeAlias = Literal["centroid", "first", "best"]
Elected: TypeAlias = npt.NDArray[Any]  # of VERDICT
Asking: TypeAlias = Generator[Int, Half, Elected]  # asks for the rows of these numbers, and returns who stays

WINDOW_ROWS = 4096  # members whose features are held at once, 24 MiB as int64 at 768 values a row
SCAN_ROWS = 1 << 22  # rows of the forest looked at together
# What is found for one member: its row, the survivor's row and id, the size of the set, its distance in 1e-9.
VERDICT = np.dtype([("number", "i8"), ("row", "i8"), ("id", "u1", 16), ("size", "i8"), ("nano", "i8")])


@dataclass(frozen=True, eq=False, slots=True)
class Survivors:
    """The answer for each of the join's rows that this rank holds, in row order."""

    numbers: Int  # (m,) the rows
    row: Int  # (m,) row number of the survivor of the row's set
    id: Ids  # (m, 16) and its id
    size: Int  # (m,) members of the set
    distance: Float  # (m,) cosine distance to the centroid, a multiple of 1e-9; 0 for a row that is alone

    @property
    def dropped(self) -> Mask:
        """Return which rows do not stay, (m,)."""
        return np.not_equal(self.row, self.numbers)


def alone(share: Share, ids: Ids) -> Survivors:
    """Return the answer where nothing is compared: each row stays, alone in its set."""
    numbers, ones = np.arange(share.begin, share.end), np.ones(share.own, dtype=np.int64)
    ids = ids[: share.own].copy()
    return Survivors(numbers=numbers, row=numbers.copy(), id=ids, size=ones, distance=np.zeros(share.own))


def _never() -> bool:
    return False


def survivors(
    share: Share,
    roots: npt.NDArray[Any],
    ids: Ids,
    squares: Float,
    rows: Half,
    *,
    keep: Keep = "centroid",
    worth: Float | None = None,
    stopping: Callable[[], bool] = _never,
) -> Survivors:
    """Choose who stays.

    roots: (n,) the smallest row of each row's set, for all rows · of the rows that this rank holds, earlier ones too:
    ids (m, 16), squares (m,) x.x from exact.squares, rows (m, d). Members of sets of two or more have finite rows.
    `best` needs worth too, of the rows that are not earlier: the highest stays, whatever the size of its set, and NaN
    loses to every number.
    Raises Stopped on all ranks where one is `stopping`.
    """
    members = _members(share, roots)
    fetched = share.fetch(ids, members), share.fetch(squares, members)
    worths = share.fetch(_padded(worth, len(ids)), members) if worth is not None else np.zeros(len(members))
    earlier = members >= share.rows
    asking = _elect(members, roots[members], *fetched, worths=worths, earlier=earlier, dim=rows.shape[1], keep=keep)
    elected = _answered(share, rows, asking, stopping)
    elected = elected[~earlier]
    _, parts = dealt(share.owners(elected["number"]), elected, share.world.size)
    return _take(alone(share, ids), np.concatenate(swap(share.world, parts)), share.begin)


def _padded(worth: Float, rows: int) -> Float:
    """Return what rows are worth, and NaN for the earlier rows behind them."""
    return np.append(worth, np.full(rows - len(worth), np.nan))


def _members(share: Share, roots: npt.NDArray[Any]) -> Int:
    """Return the members of the sets of two or more that this rank decides, set by set; sets go round the ranks."""
    parts = [slice(start, start + SCAN_ROWS) for start in range(0, len(roots), SCAN_ROWS)]
    several = np.zeros(len(roots), dtype=np.bool_)
    for part in parts:
        root = roots[part]
        several[root[root != np.arange(part.start, part.start + len(root))]] = True
    several[share.rows :] = False  # the root is the smallest row: an earlier one has only earlier ones in its set
    found = [np.empty(0, dtype=np.int64)]
    for part in parts:
        root = roots[part]
        found.append(part.start + np.flatnonzero(several[root] & (root % share.world.size == share.world.rank)))
    members = np.concatenate(found)
    return members[np.argsort(roots[members], kind="stable")]


def _elect(
    members: Int,
    roots: npt.NDArray[Any],
    ids: Ids,
    squares: Float,
    *,
    worths: Float,
    earlier: Mask,
    dim: int,
    keep: Keep,
) -> Asking:
    """Decide sets whose members stand together, in row order."""
    elected = np.empty(len(members), dtype=VERDICT)
    elected["number"] = members
    begins = np.flatnonzero(np.diff(roots, prepend=-1) != 0)
    for window in windows(np.append(begins, len(members)), WINDOW_ROWS):
        sets = np.unique(roots[window], return_inverse=True)[1]
        nano = yield from _nano(members[window], sets, squares[window], dim)
        best = window.start + _choose(sets, _cost(sets, nano, worths[window], keep), ids[window], earlier[window])
        elected["row"][window], elected["id"][window] = members[best], ids[best]
        elected["size"][window], elected["nano"][window] = np.bincount(sets)[sets], nano
    return elected


def _answered(share: Share, rows: Half, asking: Asking, stopping: Callable[[], bool]) -> Elected:
    """Return what `asking` finds, given the rows that it asks for; all ranks ask together until the last is done."""
    wanted, elected = _next(asking, None)
    while True:
        news = share.world.allgather((elected is None, stopping()))
        if any(stop for _, stop in news):
            raise Stopped("asked to stop while survivors were chosen; the joined blocks are kept")
        if not any(open_ for open_, _ in news):
            assert elected is not None
            return elected
        given = share.fetch(rows, wanted)
        if elected is None:
            wanted, elected = _next(asking, given)


def _next(asking: Asking, given: Half | None) -> tuple[Int, Elected | None]:
    try:
        return asking.send(given), None  # type: ignore[arg-type]
    except StopIteration as end:
        return np.empty(0, dtype=np.int64), end.value


def _take(answer: Survivors, elected: Elected, begin: int) -> Survivors:
    """Enter what was found for rows that this rank holds."""
    at = elected["number"] - begin
    answer.row[at], answer.id[at] = elected["row"], elected["id"]
    answer.size[at], answer.distance[at] = elected["size"], elected["nano"] / 1e9
    return answer


def windows(begins: Int, most: int) -> Iterator[slice]:
    """Cut ordered members into whole sets: at most `most` members together, or one larger set alone.

    begins: (sets + 1,) where each set begins, and where the last ends.
    """
    first = 0
    while first < len(begins) - 1:
        reach = np.searchsorted(begins, begins[first] + most, side="right") - 1
        last = max(first + 1, int(reach))
        yield slice(int(begins[first]), int(begins[last]))
        first = last


def _nano(members: Int, sets: Int, squares: Float, dim: int) -> Generator[Int, Half, Int]:
    """Return each member's cosine distance to its set's centroid in 1e-9, halves rounded up.

    `sets` numbers the sets 0, 1, .. in the order of the members. The int64 sum is exact for 2^39 unit rows in
    one set, and for 2^23 rows even of float16's largest values. A centroid that is the zero vector is at
    distance 1 of all.
    """
    pieces = [slice(start, start + WINDOW_ROWS) for start in range(0, len(members), WINDOW_ROWS)]
    centroids = np.zeros((int(sets[-1]) + 1, dim), dtype=np.int64)
    whole: Int = np.empty((0, dim), dtype=np.int64)
    for piece in pieces:
        whole = steps((yield members[piece]))
        begins = np.flatnonzero(np.diff(sets[piece], prepend=-1) != 0)
        centroids[sets[piece][begins]] += np.add.reduceat(whole, begins)
    lengths = dots(centroids, centroids)
    nano = np.empty(len(members), dtype=np.int64)
    for piece in pieces:
        if len(pieces) > 1:
            whole = steps((yield members[piece]))
        products = dots(whole, centroids[sets[piece]])
        nano[piece] = np.floor((1.0 - cosines(products, squares[piece], lengths[sets[piece]])) * 1e9 + 0.5)
    return nano


def _cost(sets: Int, nano: Int, worths: Float, keep: Keep) -> Float | Int:
    """Return what each member is chosen by, the lowest first, NaN last."""
    if keep == "best":
        return -worths
    by_distance = (np.bincount(sets)[sets] > 2) & (keep == "centroid")
    return np.where(by_distance, nano, 0)


def _choose(sets: Int, cost: Float | Int, ids: Ids, earlier: Mask) -> Int:
    """Return for each member which one survives its set; equal ids, which no run has, go by row number."""
    high, low = np.ascontiguousarray(ids).view(">u8").T
    known = np.bincount(sets, earlier)[sets] > 0
    order = np.lexsort((low, high, np.where(known, 0, cost), ~earlier, sets))
    return order[np.flatnonzero(np.diff(sets[order], prepend=-1) != 0)][sets]
