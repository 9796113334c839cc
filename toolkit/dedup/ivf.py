"""The join for scales where the exact one is too dear: inverted lists (FAISS), one shard of them on each rank.

Rows are dealt to lists by the nearest of some centroids, which rank 0 learns from a sample of all ranks' rows. Each
rank keeps the lists of its own rows; every block of every rank goes round the ring, is compared on each rank with the
rows of its `probes` nearest lists, and what is found is united in a forest like that of the exact join.

Promise: each edge found is an edge of the definition (what float32 scores leave open is decided by integers), rows of
equal bytes are always found, and what is missed is measured: of a sample of rows all edges are looked for, and the run
records how many of them lie within one set. The bytes are the same for the same ranks and threads only, since sums in
another order may lead to other centroids. There is no ledger: a kill loses the search.

Memory of a rank, beside its rows: 4 bytes a value and 8 a row for the lists, and as much on a GPU where there is one;
three blocks, some 100 bytes for each of CANDIDATES pairs, the centroids, and on rank 0 the sample in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from toolkit.data.world import World
from toolkit.dedup.exact import Float, Half, Int, Mask
from toolkit.dedup.forest import Forest
from toolkit.dedup.join import TILE_ROWS, Float32, Slab, band, near
from toolkit.dedup.node import merge
from toolkit.dedup.ring import Held, collapsed, everywhere
from toolkit.dedup.share import Share, agree, ignore, never, spread, swap
from toolkit.errors import UserError

Cells: TypeAlias = npt.NDArray[np.int32]  # (m, probes) the lists nearest to each row, nearest first
Pairs: TypeAlias = tuple[Int, Int, Float32]  # rows of a block, numbers of rows found, scores: three times (m,)

LISTS_PER_ROOT = 4  # FAISS's guidance: 4 to 16 times the root of the rows
SAMPLE_PER_LIST = 39  # rows learnt from: FAISS warns below this
ROUNDS = 6  # of learning: more found no more edges (tools/bench/ivf.py)
SEED = 1
CANDIDATES = 1 << 22  # pairs compared in one call of FAISS: bounds what may be found at one time
FIRST_NEIGHBOURS = 16
GPU_NEIGHBOURS = 2048  # FAISS finds no more on a GPU
ASKED_ROWS = 2048  # rows of which all edges are looked for: on n rows 4,096 / n of the exact join's work
# Rows that were learnt from are found more often than others, so the two samples must not know of each other.
LEARNT, ASKED = 1, 2


def _untold(_: str, __: int) -> None:
    """Forget what was measured."""


def components(
    share: Share,
    rows: Half,
    distance: float,
    *,
    lists: int | None,
    probes: int,
    tally: Callable[[str, int], None] = _untold,
    tell: Callable[[list[str]], None] = lambda said: None,
    advance: Callable[[int], None] = ignore,
    stopping: Callable[[], bool] = never,
) -> tuple[Forest, Float]:
    """Return the forest of the near-duplicates found, and the squared lengths (m,) of this rank's rows (m, d).

    A row that is zero or not finite has no edge. Earlier rows are found by others and look for none, so for edges to
    them there is one chance and not two. `advance` hears of as many rows as the join has, `tally` of:
    recall.queries, rows of which all edges were looked for; recall.edges, how many there are (one between two such rows
    counts twice); recall.found, those whose rows are in one set; search.repeated, searches of a GPU that were repeated
    for more neighbours; `tell` hears how many lists are searched. Raises Stopped on all ranks where one is `stopping`,
    and UserError where FAISS is missing.
    """
    _faiss()
    forest, lengths, chosen = collapsed(share, rows)
    own = Own(share, Slab(share.numbers, rows, lengths), chosen, distance, stopping)
    if own.rows:
        wanted = lists or round(LISTS_PER_ROOT * own.rows**0.5)
        tell([*forest.told, f"{min(probes, wanted):,} of {wanted:,} inverted lists by FAISS"])
        centroids = learn(own, wanted)
        tally("search.repeated", search(own, centroids, probes, forest, advance))
    else:
        advance(share.rows)
    merge(share.world, forest)
    for name, number in measure(own, forest).items():
        tally(f"recall.{name}", number)
    return forest, lengths


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            f"dedup.backend is faiss, and FAISS can not be loaded: {' '.join(str(error).split())}. Install it with "
            "`pip install danqing-toolkit[faiss]`, or set dedup.backend to exact, which needs nothing more and "
            "misses no edge."
        ) from error
    return faiss


class Own:
    """What this rank holds of the join, and what is asked of it."""

    def __init__(
        self, share: Share, slab: Slab, chosen: Mask, distance: float, stopping: Callable[[], bool] = never
    ) -> None:
        self.share, self.world, self.slab, self.distance = share, share.world, slab, distance
        self.held = Held(share, slab.rows, slab.squares, chosen)
        self.rows = self.held.count + self.held.earlier  # that take part, of all ranks
        self.dim = slab.rows.shape[1]
        self.blocks = [*share.held(share.world.rank), *share.kept(share.world.rank)]
        self._chosen, self._stopping = chosen, stopping

    def agree(self) -> None:
        """Raise Stopped on all ranks where one was asked to stop."""
        agree(self.world, self._stopping)

    def learnt(self, wanted: int) -> Slab:
        """Return this rank's part of about so many rows, drawn from all by their number alone."""
        return self._drawn(self._chosen, wanted / max(1, self.rows), LEARNT)

    def asked(self, wanted: int) -> Slab:
        """Return this rank's part of about so many rows, drawn from those that are not earlier ones."""
        new = self._chosen & (self.slab.numbers < self.share.rows)
        return self._drawn(new, wanted / max(1, self.held.count), ASKED)

    def _drawn(self, chosen: Mask, share: float, seed: int) -> Slab:
        return self.slab[chosen & (uniform(self.slab.numbers, seed) < share)]

    def decide(self, left: Slab, i: Int, numbers: Int) -> Mask:
        """Return which pairs of a row of `left` and a row that this rank holds are edges, exactly."""
        return near(left, self.slab, i, self.share.local(numbers), self.distance)


def uniform(numbers: Int, seed: int) -> Float:
    """Return for each row number a number in [0, 1) that looks random: the finalizer of splitmix64."""
    mixed = (numbers.astype(np.uint64) + np.uint64(seed << 48)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def learn(own: Own, lists: int) -> Float32:
    """Return the centroids of at most so many lists, (lists, d) float32, on every rank.

    Rank 0 learns them from a sample of all ranks' rows, one round at a time, so that a stop need not wait for the last.
    """
    sample = _gathered(own.world, own.learnt(lists * SAMPLE_PER_LIST).unit())
    lists = own.world.bcast(min(lists, max(1, len(sample))))
    centroids = np.zeros((lists, own.dim), dtype=np.float32)
    for turn in range(ROUNDS):
        own.agree()
        if len(sample):
            centroids = _round(sample, centroids if turn else None, lists)
    spread(own.world, centroids)
    return centroids


def _gathered(world: World, part: Float32) -> Float32:
    """Return the parts of all ranks on rank 0, nothing on the others."""
    return np.concatenate(swap(world, [part, *[part[:0]] * (world.size - 1)]))


def _round(sample: Float32, centroids: Float32 | None, lists: int) -> Float32:
    """Return centroids that are one round better, or the first."""
    faiss = _faiss()
    kmeans = faiss.Kmeans(
        sample.shape[1],
        lists,
        niter=1,
        seed=SEED,
        spherical=True,
        gpu=faiss.get_num_gpus() > 0,
        min_points_per_centroid=1,
        max_points_per_centroid=len(sample),
    )
    kmeans.train(sample, init_centroids=centroids)
    result: Float32 = kmeans.centroids
    return result


def search(own: Own, centroids: Float32, probes: int, forest: Forest, advance: Callable[[int], None]) -> int:
    """Unite the rows that the lists show to be near-duplicates; return how many searches were repeated."""
    low, high = band(own.dim, own.distance)
    lists = Lists(own, centroids, min(probes, len(centroids)), low)
    for block, visitor in _visitors(own, lists):
        for pairs in lists.find(visitor):
            _unite(own, visitor.slab, pairs, high, forest)
        forest.news()
        advance(min(own.share.block, own.share.rows - block * own.share.block))
    return sum(own.world.allgather(lists.repeated))


def _unite(own: Own, slab: Slab, pairs: Pairs, high: np.float32, forest: Forest) -> None:
    """Unite pairs that are sure to be edges, and those of the others that are found to be; rows meet themselves too."""
    rows, numbers, scores = pairs
    sure = scores > high
    forest.union(slab.numbers[rows[sure]], numbers[sure])
    rows, numbers = rows[~sure], numbers[~sure]
    apart = forest.find(slab.numbers[rows]) != forest.find(numbers)
    rows, numbers = rows[apart], numbers[apart]
    edge = own.decide(slab, rows, numbers)
    forest.union(slab.numbers[rows[edge]], numbers[edge])


@dataclass(frozen=True, eq=False, slots=True)
class Visitor:
    """A block on its way round, with the lists that its rows are nearest to."""

    slab: Slab
    cells: Cells

    def arrays(self) -> list[npt.NDArray[Any]]:
        """Return what travels."""
        return [self.slab.numbers, self.slab.rows, self.slab.squares, self.cells] if len(self.slab) else []


def _visitors(own: Own, lists: Lists) -> Iterator[tuple[int, Visitor]]:
    """Give every block of every rank, this rank's first in each lap; all ranks turn together. Earlier rows stay."""
    world, held = own.world, [own.share.held(rank) for rank in range(own.world.size)]
    before, after = (world.rank - 1) % world.size, (world.rank + 1) % world.size
    for lap in range(max(map(len, held))):
        block = _at(held[world.rank], lap)
        visitor = lists.visitor(own.held[block]) if block is not None else None
        for step in range(1, world.size + 1):
            own.agree()
            coming = _at(held[(world.rank + step) % world.size], lap) if step < world.size else None
            room = lists.room(coming) if coming is not None else None
            moves = [world.receive(array, after) for array in (room.arrays() if room else [])]
            if step < world.size and visitor:
                moves += [world.send(array, before) for array in visitor.arrays()]
            if block is not None and visitor:
                yield block, visitor
            for move in moves:
                move.wait()
            block, visitor = coming, room


def _at(blocks: Sequence[int], lap: int) -> int | None:
    """Return a block of a rank; ranks with fewer than others have none in the last lap."""
    return blocks[lap] if lap < len(blocks) else None


class Lists:
    """This rank's rows in inverted lists."""

    def __init__(self, own: Own, centroids: Float32, probes: int, low: np.float32) -> None:
        faiss = _faiss()
        self._held, self._probes = own.held, probes
        self._radius = np.nextafter(low, np.float32(-np.inf))  # FAISS gives what lies above
        self._quantizer = faiss.IndexFlatIP(own.dim)
        self._quantizer.add(centroids)
        self._index = faiss.IndexIVFFlat(self._quantizer, own.dim, len(centroids), faiss.METRIC_INNER_PRODUCT)
        self._index.nprobe = probes
        for block in own.blocks:
            slab = own.held[block]
            if len(slab):
                self._index.add_with_ids(slab.unit(), slab.numbers)
        self._sizes = np.array([self._index.invlists.list_size(cell) for cell in range(len(centroids))])
        self._gpu = _on_gpu(self._index, own.world.rank)
        self.repeated = 0  # searches repeated for twice as many neighbours

    def visitor(self, slab: Slab) -> Visitor:
        """Return a block that is to go round."""
        cells = self._quantizer.search(slab.unit(), self._probes)[1] if len(slab) else np.empty((0, self._probes))
        return Visitor(slab, cells.astype(np.int32))

    def room(self, block: int) -> Visitor:
        """Return room for a block that another rank holds."""
        slab = self._held.empty(block)
        return Visitor(slab, np.empty((len(slab), self._probes), np.int32))

    def find(self, visitor: Visitor) -> Iterator[Pairs]:
        """Give the pairs of a row of the visitor and a row of this rank that score `low` or more, some at a time."""
        unit, cells = visitor.slab.unit(), visitor.cells.astype(np.int64)
        for part in _parts(self._sizes[cells].sum(axis=1)):
            for rows, numbers, scores in self._found(unit[part], cells[part]):
                yield rows + part.start, numbers, scores

    def _found(self, unit: Float32, cells: Int) -> Iterator[Pairs]:
        """Search a GPU where there is one, and in main memory what has too many neighbours for it."""
        if self._gpu is None:
            yield within(self._index, unit, cells, self._radius)
            return
        nearest = Nearest(self._gpu, GPU_NEIGHBOURS, self._radius)
        yield from nearest.find(unit, cells)
        self.repeated += nearest.repeated
        rows, numbers, scores = within(self._index, unit[nearest.left], cells[nearest.left], self._radius)
        yield nearest.left[rows], numbers, scores


def _on_gpu(index: Any, rank: int) -> Any:
    """Return a copy of an index on one of this machine's GPUs, None where there is none."""
    faiss = _faiss()
    gpus = faiss.get_num_gpus()
    if not gpus:
        return None
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), rank % gpus, index)


def _parts(candidates: Int) -> Iterator[slice]:
    """Cut rows into parts of about CANDIDATES pairs, at least a row each; `candidates` are the pairs of each row."""
    part = np.cumsum(candidates) // CANDIDATES
    cuts = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(part)]
    return (slice(start, stop) for start, stop in pairwise(cuts) if start < stop)


def within(index: Any, unit: Float32, cells: Int, radius: np.float32) -> Pairs:
    """Return the pairs that score above the radius, of rows (m, d) and what is in their lists (m, probes)."""
    if not len(unit):
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    limits, scores, numbers = index.range_search_preassigned(unit, radius, cells, None)
    return np.repeat(np.arange(len(unit)), np.diff(limits.astype(np.int64))), numbers, scores


class Nearest:
    """Range search by an index that can only name the k nearest: k doubles until the last lies beyond the radius."""

    def __init__(self, index: Any, most: int, radius: np.float32) -> None:
        self._index, self._most, self._radius = index, most, radius
        self.left: Int = np.empty(0, np.int64)  # rows with more than `most` neighbours: none of theirs were given
        self.repeated = 0

    def find(self, unit: Float32, cells: Int) -> Iterator[Pairs]:
        """Give the pairs that score above the radius, of rows (m, d) and what is in their lists (m, probes)."""
        self.left, k = np.arange(len(unit)), min(FIRST_NEIGHBOURS, self._most)
        while len(self.left):
            scores, numbers = self._index.search_preassigned(unit[self.left], k, cells[self.left], None)
            hit = (scores > self._radius) & (numbers >= 0)
            whole = ~hit[:, -1]
            rows, ranks = np.nonzero(hit & whole[:, None])
            yield self.left[rows], numbers[rows, ranks], scores[rows, ranks]
            self.left = self.left[~whole]
            if k == self._most:
                return
            k = min(2 * k, self._most)
            self.repeated += len(self.left)


def measure(own: Own, forest: Forest) -> dict[str, int]:
    """Look for all edges of a sample of rows, as the exact join does; return how many rows and edges these are, and
    how many of the edges lie within a set."""
    asked = everywhere(own.world, own.asked(ASKED_ROWS))
    unit = asked.unit()
    edges = found = 0
    for lap in range(max(own.world.allgather(len(own.blocks)))):
        own.agree()
        block = _at(own.blocks, lap)
        for slab in own.held[block].cut(TILE_ROWS) if block is not None else []:
            left, right = _edges(own, asked, unit, slab)
            edges += len(left)
            found += int(np.count_nonzero(forest.find(left) == forest.find(right)))
    counts = own.world.allgather((edges, found))
    return {"queries": len(asked), "edges": sum(e for e, _ in counts), "found": sum(f for _, f in counts)}


def _edges(own: Own, asked: Slab, unit: Float32, slab: Slab) -> tuple[Int, Int]:
    """Return all edges from the rows asked to those of a slab that this rank holds, as row numbers."""
    low, high = band(own.dim, own.distance)
    with np.errstate(invalid="ignore"):  # some BLAS kernels raise the flag for lanes that they throw away
        scores = unit @ slab.unit().T
    rows, columns = np.nonzero(scores >= low)
    numbers = slab.numbers[columns]
    edge = scores[rows, columns] > high
    edge[~edge] = own.decide(asked, rows[~edge], numbers[~edge])
    edge &= asked.numbers[rows] != numbers
    return asked.numbers[rows[edge]], numbers[edge]
