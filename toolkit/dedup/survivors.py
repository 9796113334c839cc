"""Of each set of near-duplicates one image stays: the nearest to its set's centroid, the smallest id, or the best.

A pure function of the sets and the stored rows. The centroid is the plain sum of the stored rows; distances
to it are compared as integers of 1e-9; ties, and sets of two, go to the smallest id. Sums and dot products
are exact integers (exact.py), so the survivor depends on nothing but the rows. What is best is given as a number for
each row, and compared as it is.

A set that holds earlier rows loses all others: of the earlier rows, which are not this join's to drop, the one of the
smallest id stands for the set. All members count for its size and its centroid. Sets of earlier rows alone are left.

All ranks walk through their sets together, in the order of a hash of the root. A small set is decided by one rank, to
which the others give its members, WINDOW_ROWS of all ranks and sets at a time. Of a set with more members than a rank's
part of such a window, each rank adds up and measures those that it holds: only sums and the best of each rank travel.

Memory: some 110 bytes for each row that this rank holds, and windows, which neither the number of ranks nor the size of
a set widens: WINDOW_ROWS members with their features, and exact.CHUNK_VALUES integers of sums. Nothing here is as long
as the join. The features of rows that are alone in their set are never read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from toolkit.data.ids import Ids
from toolkit.data.world import ALONE, World
from toolkit.dedup.exact import CACHED_ROWS, Float, Half, Int, Mask, chunk, cosines, dots, steps
from toolkit.dedup.share import Array, Share, agree, dealt, fold, never, rounds, swap

Keep: TypeAlias = Literal["centroid", "first", "best"]
Found: TypeAlias = tuple[Int, Array]  # where rows stand among those of this rank, and what is found for them, VERDICT
Take: TypeAlias = Callable[[slice], Array]

WINDOW_ROWS = 1 << 14  # members that are on their way at once, of all ranks: 25 MB at 768 values a row
SCAN_ROWS = 1 << 18  # sets that are counted at once, of all ranks
KEYS = 1 << 62  # keys of sets are below
KEY_BASE = 0x9E3779B97F4A7C15  # odd: keys of different roots differ
# One member of a set as a rank gives it to another, but for its features.
CASE = [("set", "i8"), ("number", "i8"), ("id", "u1", 16), ("square", "f8"), ("worth", "f8"), ("size", "i8")]
# One that may stay, by what it is chosen: the lowest first, and NaN last.
CANDIDATE = np.dtype([("set", "i8"), ("new", "?"), ("cost", "f8"), ("id", "u1", 16), ("number", "i8")])
NOBODY = np.array((0, True, np.nan, 255, np.iinfo(np.int64).max), CANDIDATE)
# What is found for one member: the survivor's row and id, and the member's distance in 1e-9.
VERDICT = np.dtype([("row", "i8"), ("id", "u1", 16), ("nano", "i8")])


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


def survivors(
    share: Share,
    roots: npt.NDArray[Any],
    ids: Ids,
    squares: Float,
    rows: Half,
    *,
    keep: Keep = "centroid",
    worth: Float | None = None,
    stopping: Callable[[], bool] = never,
) -> Survivors:
    """Choose who stays.

    roots: (n,) the smallest row of each row's set, for all rows · of the rows that this rank holds, earlier ones too:
    ids (m, 16), squares (m,) x.x from exact.squares, rows (m, d). Members of sets of two or more have finite rows.
    `best` needs worth too, of the rows that are not earlier: the highest stays, whatever the size of its set, and NaN
    loses to every number.
    Raises Stopped on all ranks where one is `stopping`.
    """
    numbers, world = share.numbers, share.world
    sets = _sets(roots[numbers], share.rows)
    sizes = _sizes(world, sets, stopping)
    size = np.ones(len(numbers), dtype=np.int64)
    size[sets.local] = np.repeat(sizes, sets.counts)
    held = Held(share, numbers, roots, ids, squares, None if worth is None else _padded(worth, len(ids)), size, rows)
    answer = alone(share, ids)
    answer.size[:] = size[: share.own]
    most = max(1, WINDOW_ROWS // world.size)
    small, large = sets.chosen((sizes > 1) & (sizes <= most)), sets.chosen(sizes > most)
    del sets, sizes
    rule = Rule(keep, share.rows)
    for found in chain(_decided(held, small, rule, stopping), _measured(held, large, rule, stopping)):
        _enter(answer, *found)
    return answer


def _padded(worth: Float, rows: int) -> Float:
    """Return what rows are worth, and NaN for the earlier rows behind them."""
    return np.append(worth, np.full(rows - len(worth), np.nan))


def _enter(answer: Survivors, local: Int, found: Array) -> None:
    """Enter what was found for rows that this rank holds; earlier ones are not asked for."""
    own = local < len(answer.row)
    at, found = local[own], found[own]
    answer.row[at], answer.id[at], answer.distance[at] = found["row"], found["id"], found["nano"] / 1e9


# Sets, and the walk through them


@dataclass(frozen=True, eq=False, slots=True)
class Sets:
    """The sets of which this rank holds members, in the order of their keys."""

    keys: Int  # (s,)
    begins: Int  # (s + 1,) where each set's members begin, and where the last end
    local: Int  # (m,) where the members stand among the rows of this rank, set by set

    @property
    def counts(self) -> Int:
        """Return how many members of each set this rank holds, (s,)."""
        return np.diff(self.begins)

    def members(self, window: slice) -> Int:
        """Return the members of some sets that stand together."""
        return self.local[self.begins[window.start] : self.begins[window.stop]]

    def chosen(self, which: Mask) -> Sets:
        """Return some of the sets, which (s,)."""
        counts = self.counts
        local = self.local[np.repeat(which, counts)]
        return Sets(self.keys[which], np.append(0, np.cumsum(counts[which])), local)


def keys(roots: npt.NDArray[Any]) -> Int:
    """Return a key of each set: roots in any pattern, of any rank, have keys from all over 0 .. KEYS - 1."""
    product = roots.astype(np.uint64) * np.uint64(KEY_BASE)
    return (product & np.uint64(KEYS - 1)).astype(np.int64)


def judges(keys: Int, ranks: int) -> Int:
    """Return the rank that decides each set; the lowest bits of keys are those of the roots, and are not asked."""
    return (keys >> 31) % ranks


def _sets(roots: npt.NDArray[Any], rows: int) -> Sets:
    """Return the sets of this rank's rows, but those of earlier rows, since the root is the smallest row."""
    local = np.flatnonzero(roots < rows)
    key = keys(roots[local])
    order = np.argsort(key, kind="stable")
    key, local = key[order], local[order]
    begins = np.flatnonzero(np.diff(key, prepend=-1) != 0)
    return Sets(key[begins], np.append(begins, len(local)), local)


def _walk(world: World, keys: Int, begins: Int, most: int, stopping: Callable[[], bool]) -> Iterator[slice]:
    """Cut the ordered sets of this rank into windows; all ranks cut at the same keys, and take every window together.

    keys (s,), begins (s + 1,). Members in a window: `most` of all ranks and an equal part of that of each, or one set
    of a rank. Each rank tells up to where its sets fit its part, and the lowest key counts; as keys are a hash, these
    are near each other.
    """
    first, part = 0, most // world.size
    while True:
        reach = np.searchsorted(begins, begins[first] + part, side="right") - 1
        last = min(max(first + 1, int(reach)), len(keys))
        end = int(keys[last]) if last < len(keys) else KEYS
        agree(world, stopping)
        news = world.allgather((first == len(keys), end))
        if all(done for done, _ in news):
            return
        last = int(np.searchsorted(keys, min(end for _, end in news)))
        yield slice(first, last)
        first = last


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


def _sizes(world: World, sets: Sets, stopping: Callable[[], bool]) -> Int:
    """Return the size of each set with the members of all ranks, (s,)."""
    sizes, counts = np.empty(len(sets.keys), dtype=np.int64), sets.counts
    for window in _walk(world, sets.keys, np.arange(len(sets.keys) + 1), SCAN_ROWS, stopping):
        own = np.stack([sets.keys[window], counts[window]], axis=1)
        order, asked = dealt(judges(own[:, 0], world.size), own, world.size)
        sizes[window.start + order] = _answered(world, asked, _totals)
    return sizes


def _totals(counted: Int) -> Int:
    """Return the sum of the counts that stand with the same key, (m, 2) -> (m,)."""
    found, at = np.unique(counted[:, 0], return_inverse=True)
    totals = np.zeros(len(found), dtype=np.int64)
    np.add.at(totals, at, counted[:, 1])
    return totals[at]


def _answered(world: World, asked: list[Array], answer: Callable[[Array], Array]) -> Array:
    """Give each rank its part, and return what the ranks answer to them, one part behind the other."""
    came = swap(world, asked)
    ends = np.cumsum([len(part) for part in came])
    return np.concatenate(swap(world, np.split(answer(np.concatenate(came)), ends[:-1])))


# The members of sets, and what is found for them


@dataclass(frozen=True, eq=False, slots=True)
class Held:
    """What this rank holds of its rows, (m,) each."""

    share: Share
    numbers: Int
    roots: npt.NDArray[Any]  # of all rows
    ids: Ids
    squares: Float
    worth: Float | None
    size: Int  # of the row's set
    rows: Half

    @property
    def dim(self) -> int:
        """Return the number of values in a row."""
        return int(self.rows.shape[1])

    def cases(self, local: Int) -> Array:
        """Return these rows as members of sets."""
        cases = np.empty(len(local), dtype=[*CASE, ("row", "f2", (self.dim,))])
        cases["number"] = number = self.numbers[local]
        cases["set"], cases["id"] = keys(self.roots[number]), self.ids[local]
        cases["square"], cases["size"] = self.squares[local], self.size[local]
        cases["worth"] = 0.0 if self.worth is None else self.worth[local]
        cases["row"] = self.rows[local]
        return cases


def _decided(held: Held, sets: Sets, rule: Rule, stopping: Callable[[], bool]) -> Iterator[Found]:
    """Give what is found for the members of sets that one rank each decides."""
    world = held.share.world
    for window in _walk(world, sets.keys, sets.begins, WINDOW_ROWS, stopping):
        owners = judges(np.repeat(sets.keys[window], sets.counts[window]), world.size)
        _, sent = dealt(owners, sets.members(window), world.size)
        asked = [held.cases(part) for part in sent]
        yield np.concatenate(sent), _answered(world, asked, lambda cases: _judged(cases, rule))


def _judged(cases: Array, rule: Rule) -> Array:
    """Decide sets of which all members are here."""
    found = np.empty(len(cases), dtype=VERDICT)
    order = np.argsort(cases["set"], kind="stable")
    key = cases["set"][order]
    begins = np.flatnonzero(np.diff(key, prepend=-1) != 0)
    dim = cases["row"].shape[1]
    for part in windows(np.append(begins, len(cases)), CACHED_ROWS):
        group, sets = order[part], np.cumsum(np.diff(key[part], prepend=-1) != 0) - 1
        nano, best = _judge(ALONE, partial(_picked, cases, group), sets, (int(sets[-1]) + 1, dim), rule)
        found[group] = _verdicts(best[sets], nano)
    return found


def _measured(held: Held, sets: Sets, rule: Rule, stopping: Callable[[], bool]) -> Iterator[Found]:
    """Give what is found for the members of sets for which each rank measures its own."""
    world = held.share.world
    for window in _walk(world, sets.keys, np.arange(len(sets.keys) + 1), chunk(held.dim), stopping):
        labels = np.unique(np.concatenate(world.allgather(sets.keys[window])))
        local = sets.members(window)
        of = np.repeat(np.searchsorted(labels, sets.keys[window]), sets.counts[window])
        nano, best = _judge(world, partial(_own, held, local), of, (len(labels), held.dim), rule, stopping=stopping)
        for start in range(0, len(local), WINDOW_ROWS):
            piece = slice(start, start + WINDOW_ROWS)
            yield local[piece], _verdicts(best[of[piece]], nano[piece])


def _picked(cases: Array, order: Int, piece: slice) -> Array:
    return cases[order[piece]]


def _own(held: Held, local: Int, piece: slice) -> Array:
    return held.cases(local[piece])


# Who stays


@dataclass(frozen=True, slots=True)
class Rule:
    """By what the survivor of a set is chosen."""

    keep: Keep
    rows: int  # those from this number on are earlier ones

    def candidates(self, cases: Array, sets: Int, nano: Int) -> Array:
        """Return members of numbered sets as those that may stay."""
        found = np.empty(len(cases), dtype=CANDIDATE)
        found["set"], found["new"] = sets, cases["number"] < self.rows
        found["id"], found["number"] = cases["id"], cases["number"]
        by_distance = (cases["size"] > 2) & (self.keep == "centroid")
        cost = -cases["worth"] if self.keep == "best" else np.where(by_distance, nano, 0)
        found["cost"] = np.where(found["new"], cost, 0)  # of earlier rows the smallest id
        return found


def _judge(
    world: World,
    take: Take,
    sets: Int,
    shape: tuple[int, int],
    rule: Rule,
    *,
    stopping: Callable[[], bool] = never,
) -> tuple[Int, Array]:
    """Return each member's cosine distance to its set's centroid in 1e-9, halves rounded up, and who stays, CANDIDATE.

    take: the members that this rank has, of a slice · sets (m,) the set of each, members of one stand together ·
    shape: (sets, values in a row), on all ranks the same. The int64 sum is exact for 2^39 unit rows in one set, and for
    2^23 rows even of float16's largest values, on however many ranks they are. A centroid that is the zero vector is at
    distance 1 of all.
    """

    @lru_cache(maxsize=1)  # often one piece is all
    def taken(start: int, stop: int) -> tuple[Array, Int]:
        cases = take(slice(start, stop))
        return cases, steps(cases["row"])

    centroids = np.zeros(shape, dtype=np.int64)
    for start, stop in _pieces(world, len(sets), stopping):
        of = sets[start:stop]
        begins = np.flatnonzero(np.diff(of, prepend=-1) != 0)
        centroids[of[begins]] += np.add.reduceat(taken(start, stop)[1], begins)
    fold(world, centroids, np.add)
    lengths, nano = dots(centroids, centroids), np.empty(len(sets), dtype=np.int64)
    best = np.repeat(NOBODY, shape[0])
    best["set"] = np.arange(shape[0])
    for start, stop in _pieces(world, len(sets), stopping):
        (cases, whole), of = taken(start, stop), sets[start:stop]
        products = dots(whole, centroids[of])
        nano[start:stop] = np.floor((1.0 - cosines(products, cases["square"], lengths[of])) * 1e9 + 0.5)
        known = best[of[np.diff(of, prepend=-1) != 0]]
        found = _better(known, rule.candidates(cases, of, nano[start:stop]))
        best[found["set"]] = found
    fold(world, best, _better)
    return nano, best


def _pieces(world: World, count: int, stopping: Callable[[], bool]) -> Iterator[tuple[int, int]]:
    """Cut `count` members of this rank into pieces; all ranks come here together, and agree now and then to go on."""
    for window in rounds(world, count, WINDOW_ROWS):
        agree(world, stopping)
        end = min(count, window.stop)
        for start in range(window.start, end, CACHED_ROWS):
            yield start, min(end, start + CACHED_ROWS)


def _better(best: Array, others: Array) -> Array:
    """Return the first candidate of each set; equal ids, which no run has, go by row number."""
    both = np.concatenate([best, others])
    high, low = np.ascontiguousarray(both["id"]).view(">u8").T
    order = np.lexsort((both["number"], low, high, both["cost"], both["new"], both["set"]))
    first: Array = both[order[np.diff(both["set"][order], prepend=-1) != 0]]
    return first


def _verdicts(best: Array, nano: Int) -> Array:
    """Return what is found for members, given who stays in the place of each."""
    found = np.empty(len(nano), dtype=VERDICT)
    found["row"], found["id"], found["nano"] = best["number"], best["id"], nano
    return found
