"""What a killed join does not repeat: the pairs of blocks that are finished, and the unions that they made.

Blocks are cut by row number alone, so a ledger that one number of ranks has written serves any other. It is kept as
parts of the unit's checkpoint, each whole or not at all: pairs and their unions since the part before it, of all ranks,
written by rank 0. A part of another join (rows, blocks, dim or distance differ) is passed over. Pairs of two earlier
blocks do not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import IO

import numpy as np

from toolkit.data.stage import Checkpoint
from toolkit.dedup.exact import Int
from toolkit.dedup.forest import Forest
from toolkit.dedup.share import Share, spread

# What a kill may cost, over all ranks: a 256th of the join, so a few minutes of a day, but not less than some seconds
# of two cores, because saving brings a file to the disk.
SAVE_FLOPS = 10**12
SAVES = 256
PAIR_FLOPS = 10**7  # what a pair counts at least: where nearly all rows are copies, pairs cost nothing but memory here
SUFFIX = ".pairs"


class Ledger:
    """The finished pairs of blocks of one join."""

    def __init__(self, share: Share, dim: int, distance: float, checkpoint: Callable[[], Checkpoint]) -> None:
        self._share, self._open = share, checkpoint
        self._opened: Checkpoint | None = None
        cuts = (share.rows, share.block, share.earlier, share.earlier_block)
        self._key = np.array([*cuts, dim, np.float64(distance).view(np.int64)], dtype=np.int64)
        self._done = np.zeros((share.blocks, share.blocks + share.old.blocks), dtype=np.bool_)
        self._fresh: list[tuple[int, int]] = []
        self.flops = 0  # of this rank, since the last part

    @property
    def _checkpoint(self) -> Checkpoint:
        """The one place of all parts, opened by rank 0 alone, and once: opening reads every record.

        Not a `cached_property`: in Python 3.11 that holds a lock of the class while it opens.
        """
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def has(self, one: int, other: int) -> bool:
        """Return whether a pair of blocks is finished."""
        return bool(self._done[min(one, other), max(one, other)])

    def note(self, one: int, other: int, flops: int) -> None:
        """Take down that a pair of blocks is finished, and the work that it was."""
        pair = min(one, other), max(one, other)
        self._done[pair] = True
        self._fresh.append(pair)
        self.flops += max(flops, PAIR_FLOPS)

    def load(self, forest: Forest) -> None:
        """Take over what earlier attempts have saved; the unions go to the forest of rank 0's node."""
        if self._share.world.rank == 0:
            for part in self._checkpoint.parts():
                with self._checkpoint.load(part, SUFFIX) as file:
                    self._read(file, forest)
            forest.news()
        spread(self._share.world, self._done)

    def _read(self, file: IO[bytes], forest: Forest) -> None:
        if file.read(self._key.nbytes) != self._key.tobytes():
            return
        while (pairs := _get(file)) is not None:
            self._done[pairs[:, 0], pairs[:, 1]] = True
            edges = _get(file)
            assert edges is not None, "a part holds pairs and edges by turns"
            forest.union(edges[:, 0], edges[:, 1])

    def save(self, forest: Forest) -> None:
        """Add a part with what is new on all ranks, which come here together.

        What one of them notes may rest on what another has united in the forest of their node. So all must have noted
        and united what they will before the first of them comes here: then all of it is in one part.
        """
        pairs, edges = np.array(self._fresh, dtype=np.int64).reshape(-1, 2), forest.news()
        self._fresh, self.flops = [], 0
        world = self._share.world
        counts = world.allgather((len(pairs), len(edges)))
        if world.rank:
            for table in (pairs, edges):
                if len(table):
                    world.send(table, 0).wait()
        elif any(count for count, _ in counts):
            self._write(counts, pairs, edges)

    def _write(self, counts: list[tuple[int, int]], pairs: Int, edges: Int) -> None:
        """Write a part, taking one rank's news after the other."""

        def write(create: Callable[[str], IO[bytes]]) -> None:
            file = create(SUFFIX)
            file.write(self._key.tobytes())
            for table in self._tables(counts, pairs, edges):
                _put(file, table)

        self._checkpoint.add(write)  # later parts rest on this one: none may be given up for another attempt's

    def _tables(self, counts: list[tuple[int, int]], pairs: Int, edges: Int) -> Iterator[Int]:
        """Give the pairs and the unions of one rank after the other."""
        yield from (pairs, edges)
        for rank in range(1, len(counts)):
            for count in counts[rank]:
                table = np.empty((count, 2), dtype=np.int64)
                if count:
                    self._share.world.receive(table, rank).wait()
                yield table


def _put(file: IO[bytes], table: Int) -> None:
    """Write (m, 2) integers after their number."""
    file.write(np.int64(len(table)).tobytes())
    file.write(np.ascontiguousarray(table).data)


def _get(file: IO[bytes]) -> Int | None:
    """Read what `_put` wrote, None at the end of the file."""
    count = file.read(8)
    if not count:
        return None
    size = int(np.frombuffer(count, np.int64)[0])
    return np.frombuffer(file.read(16 * size), np.int64).reshape(-1, 2)
