"""Which rank holds which rows of a join, and how one rank comes by rows that another holds.

The rows of a join are numbered through, in the order of shards and rows, and cut into blocks by their number alone:
blocks are the same for any number of ranks. Each rank holds a run of blocks, so of shards too; there may be more ranks
than blocks, then some hold nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from toolkit.data.stage import Stopped
from toolkit.data.world import World
from toolkit.dedup.exact import Int

Array: TypeAlias = npt.NDArray[Any]

# A block is what travels, and a pair of blocks is what the ledger knows as done. 16,384 rows of 768 values are 25 MB,
# and one pair of such blocks is 0.4 TFLOP: seconds on two cores. Few rows are cut finer, so that several ranks share
# them evenly; from 134 million rows on blocks grow, so that the ledger's table of pairs stays below 64 MB.
MIN_ROWS, MAX_ROWS = 2048, 16_384
FEW_BLOCKS, MAX_BLOCKS = 64, 8192


def block_rows(rows: int) -> int:
    """Return how many rows of a join of so many stand in one block."""
    return max(MIN_ROWS, min(MAX_ROWS, rows // FEW_BLOCKS), -(-rows // MAX_BLOCKS))


@dataclass(frozen=True)
class Share:
    """The rows of a join and this rank's part of them."""

    world: World
    rows: int
    block: int

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
        return [-(-rank * self.blocks // self.world.size) for rank in range(self.world.size + 1)]

    def held(self, rank: int) -> range:
        """Return the blocks that a rank holds."""
        return range(self._firsts[rank], self._firsts[rank + 1])

    @property
    def begin(self) -> int:
        """Return the first row that this rank holds."""
        return int(self.borders[self.world.rank])

    @property
    def end(self) -> int:
        """Return the row after the last that this rank holds."""
        return int(self.borders[self.world.rank + 1])

    @property
    def numbers(self) -> Int:
        """Return the numbers of the rows that this rank holds."""
        return np.arange(self.begin, self.end)

    def owners(self, numbers: Int) -> Int:
        """Return the rank that holds each of the numbered rows."""
        return np.searchsorted(self.borders, numbers, side="right") - 1

    def fetch(self, local: Array, numbers: Int) -> Array:
        """Return what the owners of the numbered rows hold of them; `local` is what this rank holds of its own.

        All ranks take part, each with its own numbers, maybe none.
        """
        if self.world.size == 1:
            return local[numbers]
        order, asked = dealt(self.owners(numbers), numbers, self.world.size)
        given = swap(self.world, [local[part - self.begin] for part in swap(self.world, asked)])
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


def spread(world: World, array: Array) -> None:
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


def rounds(world: World, count: int, size: int) -> Iterator[slice]:
    """Cut `count` things of this rank into slices; all ranks get equally many, some of them empty."""
    for start in range(0, max(world.allgather(count)), size):
        yield slice(start, start + size)


def agree(world: World, stopping: Callable[[], bool]) -> None:
    """Raise Stopped on all ranks where one was asked to stop; all ranks come here together."""
    if any(world.allgather(stopping())):
        raise Stopped("the join was asked to stop")
