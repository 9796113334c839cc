"""What the ranks of one node have in common: a forest in shared memory, so that a node holds it once.

The first rank of a node makes the memory, without a name in any file system, and the others open it through /proc: what
a killed job leaves is gone with its last process. Ranks take turns to unite, by a lock on that memory, which the kernel
takes back from a process that dies. A rank that can not open it (no Linux, another container) has a forest of its own,
with which nothing changes but the memory; so has each rank that is alone on its node.

Memory: 4 bytes (8 from 2^31 on) for every row of the join, on each node.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from toolkit.data.world import Some, World
from toolkit.dedup.forest import Forest, kind
from toolkit.dedup.share import spread

MERGE_ROWS = 1 << 20  # rows of a forest that travel at once: 4 MiB, and up to 60 MB while they are united


def hosts(world: World) -> list[str]:
    """Return the name of each rank's node; all ranks ask together."""
    return world.allgather(socket.gethostname())


def seat(world: World) -> int:
    """Return which of the ranks on its node this one is; all ranks ask together."""
    names = hosts(world)
    return names[: world.rank].count(names[world.rank])


class NodeForest(Forest):
    """The forest of a node, or of a rank for itself; `heads` are the ranks that made one, in order."""

    def __init__(self, world: World, rows: int) -> None:
        names = hosts(world)
        first = [names.index(name) for name in names]
        head = first[world.rank]
        memory = _common(world, head, rows * kind(rows).itemsize if first.count(head) > 1 else 0)
        if memory is None:
            super().__init__(rows)
        else:
            super().__init__(rows, np.frombuffer(mmap.mmap(memory.fileno(), 0), kind(rows)), Turn(memory))
        for start in range(0, rows if memory is not None and head == world.rank else 0, MERGE_ROWS):
            piece = self.parent[start : start + MERGE_ROWS]
            piece[:] = np.arange(start, start + len(piece), dtype=piece.dtype)
        shared = world.allgather(memory is not None)  # and none goes on before the heads have written
        self.heads = [rank for rank in range(world.size) if first[rank] == rank or not shared[rank]]


class Offer(NamedTuple):
    """Where other processes of a node find memory, and how they know that it is the right one."""

    path: str
    name: str


def _common(world: World, head: int, size: int) -> IO[bytes] | None:
    """Return memory that this rank has in common with `head`, all zero; None where there is none, or size is zero."""
    made = _made(size) if size and head == world.rank else None
    offers = world.allgather(made and Offer(f"/proc/{os.getpid()}/fd/{made.fileno()}", _name(made)))
    offer = offers[head]
    return made if made or not offer else _opened(offer)


def _made(size: int) -> IO[bytes] | None:
    try:
        memory = os.fdopen(os.memfd_create(f"danqing-{os.urandom(8).hex()}"), "r+b", buffering=0)
        memory.truncate(size)
    except (AttributeError, OSError):  # no Linux
        return None
    return memory


def _opened(offer: Offer) -> IO[bytes] | None:
    with suppress(OSError):
        memory = os.fdopen(os.open(offer.path, os.O_RDWR), "r+b", buffering=0)
        if _name(memory) == offer.name:  # in another container the number may be another process's
            return memory
        memory.close()
    return None


def _name(memory: IO[bytes]) -> str:
    return str(Path(f"/proc/self/fd/{memory.fileno()}").readlink())


class Turn:
    """Held by one of the processes at a time that have opened a file; each has opened it for itself."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def __enter__(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)


def merge(world: World, forest: NodeForest) -> None:
    """Unite the forests of all nodes, in a tree, and give all of them the roots; all ranks come here together."""
    world.allgather(None)  # what others on this node unite is in its forest
    if world.rank in forest.heads:
        _gather(Some(world, forest.heads), forest)
    world.allgather(None)
    forest.news()


def _gather(heads: Some, forest: Forest) -> None:
    reach = 1
    while reach < heads.size:
        if heads.rank % (2 * reach) == reach:
            for start in range(0, len(forest), MERGE_ROWS):
                heads.send(forest.parent[start : start + MERGE_ROWS], heads.rank - reach).wait()
            break
        if heads.rank + reach < heads.size:
            _take(heads, forest, heads.rank + reach)
        reach *= 2
    if heads.rank == 0:
        forest.roots()
    spread(heads, forest.parent)


def _take(heads: Some, forest: Forest, source: int) -> None:
    """Merge another node's forest, a piece at a time."""
    for start in range(0, len(forest), MERGE_ROWS):
        piece = np.empty_like(forest.parent[start : start + MERGE_ROWS])
        heads.receive(piece, source).wait()
        forest.merge(piece, start)
        forest.news()
