"""Which rank holds which rows of a join, and how one rank comes by rows that another holds.

The rows of a join are numbered through, in the order of shards and rows, and cut into blocks by their number alone:
blocks are the same for any number of ranks. Each rank holds a run of blocks, so of shards too; there may be more ranks
than blocks, then some hold nothing.

A join may have earlier rows, against which its own are held and which are never held against each other. Their numbers
and blocks come after its own, and each rank holds a run of these too. What a rank holds of its rows, an array, has
those of the join first and the earlier ones behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from toolkit.data.stage import Stopped
from toolkit.data.world import Post, World
from toolkit.dedup.exact import Int

Array: TypeAlias = npt.NDArray[Any]

# A block is what travels, and a pair of blocks is what the ledger knows as done. 16,384 rows of 768 values are 25 MB,
# and one pair of such blocks is 0.4 TFLOP: seconds on two cores. Few rows are cut finer, so that several ranks share
# them evenly; from 134 million rows on blocks grow, so that the ledger's table of pairs stays below 64 MB (of as many
# earlier rows, cut by themselves, 128 MB).
MIN_ROWS, MAX_ROWS = 2048, 16_384
FEW_BLOCKS, MAX_BLOCKS = 64, 8192


def block_rows(rows: int) -> int:
    """Return how many rows of a join of so many stand in one block."""
    return max(MIN_ROWS, min(MAX_ROWS, rows // FEW_BLOCKS), -(-rows // MAX_BLOCKS))


@dataclass(frozen=True)
class Cut:
    """Rows in blocks, and a run of the blocks for each rank."""

    rows: int
    block: int
    ranks: int

    @property
    def blocks(self) -> int:
        """Return the number of blocks."""
        return -(-self.rows // self.block)

    @cached_property
    def borders(self) -> Int:
        """Return the first row of each rank, and the end: (ranks + 1,)."""
        return np.array([min(self.rows, first * self.block) for first in self._firsts])

    @cached_property
    def _firsts(self) -> list[int]:
        return [-(-rank * self.blocks // self.ranks) for rank in range(self.ranks + 1)]

    def held(self, rank: int) -> range:
        """Return the blocks that a rank holds."""
        return range(self._firsts[rank], self._firsts[rank + 1])

    def part(self, rank: int) -> range:
        """Return the rows that a rank holds."""
        return range(int(self.borders[rank]), int(self.borders[rank + 1]))


@dataclass(frozen=True)
class Share:
    """The rows of a join and this rank's part of them, and of the earlier rows."""

    world: World
    rows: int
    block: int
    earlier: int = 0  # rows of earlier runs
    earlier_block: int = MIN_ROWS

    @cached_property
    def new(self) -> Cut:
        """Return how the rows of the join are cut."""
        return Cut(self.rows, self.block, self.world.size)

    @cached_property
    def old(self) -> Cut:
        """Return how the earlier rows are cut, numbered from 0."""
        return Cut(self.earlier, self.earlier_block, self.world.size)

    @property
    def total(self) -> int:
        """Return the number of all rows."""
        return self.rows + self.earlier

    @property
    def blocks(self) -> int:
        """Return the number of blocks of the join's rows."""
        return self.new.blocks

    @property
    def borders(self) -> Int:
        """Return the first row of each rank, and the end: (ranks + 1,)."""
        return self.new.borders

    def held(self, rank: int) -> range:
        """Return the blocks of the join's rows that a rank holds."""
        return self.new.held(rank)

    def kept(self, rank: int) -> range:
        """Return the blocks of earlier rows that a rank holds."""
        blocks = self.old.held(rank)
        return range(self.blocks + blocks.start, self.blocks + blocks.stop)

    @property
    def begin(self) -> int:
        """Return the first of the join's rows that this rank holds."""
        return self.new.part(self.world.rank).start

    @property
    def end(self) -> int:
        """Return the row after the last of the join's that this rank holds."""
        return self.new.part(self.world.rank).stop

    @property
    def own(self) -> int:
        """Return how many of the join's rows this rank holds."""
        return self.end - self.begin

    @property
    def older(self) -> range:
        """Return the earlier rows that this rank holds, numbered from 0."""
        return self.old.part(self.world.rank)

    @property
    def numbers(self) -> Int:
        """Return the numbers of the rows that this rank holds."""
        numbers = np.arange(self.own + len(self.older))
        numbers[: self.own] += self.begin
        numbers[self.own :] += self.rows + self.older.start - self.own
        return numbers

    def part(self, block: int) -> tuple[int, slice]:
        """Return the number of the first row of a block that this rank holds, and where they stand among its rows."""
        if block < self.blocks:
            first, size, at = block * self.block, self.block, -self.begin
            end = self.own
        else:
            first, size = self.rows + (block - self.blocks) * self.earlier_block, self.earlier_block
            at, end = self.own - self.rows - self.older.start, self.own + len(self.older)
        return first, slice(first + at, min(first + at + size, end))

    def local(self, numbers: Int) -> Int:
        """Return where the numbered rows, which this rank holds, stand among its rows."""
        return numbers - np.where(numbers < self.rows, self.begin, self.rows + self.older.start - self.own)

    def owners(self, numbers: Int) -> Int:
        """Return the rank that holds each of the numbered rows."""
        new = np.searchsorted(self.new.borders, numbers, side="right") - 1
        old = np.searchsorted(self.old.borders, numbers - self.rows, side="right") - 1
        return np.where(numbers < self.rows, new, old)

    def fetch(self, local: Array, numbers: Int) -> Array:
        """Return what the owners of the numbered rows hold of them; `local` is what this rank holds of its own.

        All ranks take part, each with its own numbers, maybe none.
        """
        if self.world.size == 1:
            return local[numbers]
        order, asked = dealt(self.owners(numbers), numbers, self.world.size)
        given = swap(self.world, [local[self.local(part)] for part in swap(self.world, asked)])
        result = np.empty((len(numbers), *local.shape[1:]), local.dtype)
        result[order] = np.concatenate(given)
        return result


def dealt(owners: Int, values: Array, size: int) -> tuple[Int, list[Array]]:
    """Return the stable order of values by owner, and the values cut in that order, one part an owner."""
    order = np.argsort(owners, kind="stable")
    cuts = np.searchsorted(owners[order], np.arange(1, size))
    return order, np.split(values[order], cuts)


def swap(world: World, parts: Sequence[Array]) -> list[Array]:
    """Give each rank its part and return what they gave to this one, in the order of ranks.

    All parts of all ranks are of one dtype and shape, but for their length.
    """
    if world.size == 1:
        return list(parts)
    counts = [lengths[world.rank] for lengths in world.allgather([len(part) for part in parts])]
    own = parts[world.rank]
    result = [np.empty((count, *own.shape[1:]), own.dtype) for count in counts]
    result[world.rank] = own
    others = [rank for rank in range(world.size) if rank != world.rank]
    moves = [world.receive(result[rank], rank) for rank in others if counts[rank]]
    moves += [world.send(np.ascontiguousarray(parts[rank]), rank) for rank in others if len(parts[rank])]
    for move in moves:
        move.wait()
    return result


def spread(world: Post, array: Array) -> None:
    """Overwrite the array of every rank with that of rank 0, along a tree."""
    reach = 1
    while reach < world.size:
        reach *= 2
    while reach > 1:
        half = reach // 2
        if world.rank % reach == half:
            world.receive(array, world.rank - half).wait()
        elif world.rank % reach == 0 and world.rank + half < world.size:
            world.send(array, world.rank + half).wait()
        reach = half


def fold(world: Post, array: Array, both: Callable[[Array, Array], Array]) -> None:
    """Overwrite the array of every rank with those of all ranks taken together, two by two, along a tree."""
    reach = 1
    while reach < world.size and world.rank % reach == 0:
        if world.rank % (2 * reach):
            world.send(array, world.rank - reach).wait()
        elif world.rank + reach < world.size:
            other = np.empty_like(array)
            world.receive(other, world.rank + reach).wait()
            array[...] = both(array, other)
        reach *= 2
    spread(world, array)


def rounds(world: World, count: int, size: int) -> Iterator[slice]:
    """Cut `count` things of this rank into slices; all ranks get equally many, some of them empty."""
    for start in range(0, max(world.allgather(count)), size):
        yield slice(start, start + size)


def ignore(_: int) -> None:
    """Take no notice of progress."""


def never() -> bool:
    """Go on for ever."""
    return False


def agree(world: World, stopping: Callable[[], bool]) -> None:
    """Raise Stopped on all ranks where one was asked to stop; all ranks come here together."""
    if any(world.allgather(stopping())):
        raise Stopped("the join was asked to stop")
