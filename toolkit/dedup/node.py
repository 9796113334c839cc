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

from toolkit.data.world import Group, World
from toolkit.dedup.forest import Forest, Rows, kind
from toolkit.dedup.share import spread

MERGE_ROWS = 1 << 20  # rows of a forest that travel at once: 4 MiB, and up to 60 MB while they are united


def hosts(world: World) -> list[str]:
    """Return what tells each rank's node from others; all ranks ask together."""
    return world.allgather(f"{socket.gethostname()} {_boot()}")


def _boot() -> str:
    """Return what tells machines apart that have one name, as those of one image may."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


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
        memory = _common(world, head, rows if first.count(head) > 1 else 0)
        if memory is None:
            super().__init__(rows)
        else:
            super().__init__(rows, memory.numbers, memory)
        for start in range(0, rows if memory is not None and head == world.rank else 0, MERGE_ROWS):
            piece = self.parent[start : start + MERGE_ROWS]
            piece[:] = np.arange(start, start + len(piece), dtype=piece.dtype)
        shared = world.allgather(memory is not None)  # and none goes on before the heads have written
        self.heads = [rank for rank in range(world.size) if first[rank] == rank or not shared[rank]]
        self.nodes = len(set(first))

    @property
    def told(self) -> list[str]:
        """Return what whoever reckons with one forest a node should hear."""
        if len(self.heads) == self.nodes or not len(self):
            return []
        size = f"{self.parent.nbytes / 1e9:.1f} GB"
        return [f"{len(self.heads)} forests of {size} where {self.nodes} would do: some ranks can not share memory"]


class Offer(NamedTuple):
    """Where other processes of a node find memory, and how they know that it is the right one."""

    path: str
    name: str


class Memory:
    """Row numbers that processes of a node have in common; as a context, held by one of them at a time."""

    def __init__(self, file: IO[bytes], rows: int) -> None:
        self._file = file  # each process has opened it for itself: else the lock would hold nobody off
        self.numbers: Rows = np.frombuffer(mmap.mmap(file.fileno(), 0), kind(rows))
        self.offer = Offer(f"/proc/{os.getpid()}/fd/{file.fileno()}", _name(file))

    def __enter__(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)


def _common(world: World, head: int, rows: int) -> Memory | None:
    """Return memory for so many rows that this rank has in common with `head`; None where it can not be had."""
    made = _made(rows) if rows and head == world.rank else None
    offer = world.allgather(made and made.offer)[head]
    return made if made or not offer else _opened(offer, rows)


def _made(rows: int) -> Memory | None:
    with suppress(OSError, AttributeError):  # no Linux, or a limit
        file = os.fdopen(os.memfd_create(f"danqing-{os.urandom(8).hex()}"), "r+b", buffering=0)
        # Taken now, since a lack of memory is an error here, and a fatal signal where a page is first touched.
        os.posix_fallocate(file.fileno(), 0, rows * kind(rows).itemsize)
        return Memory(file, rows)
    return None


def _opened(offer: Offer, rows: int) -> Memory | None:
    with suppress(OSError):
        file = os.fdopen(os.open(offer.path, os.O_RDWR), "r+b", buffering=0)
        if _name(file) == offer.name:  # in another container the number may be another process's
            return Memory(file, rows)
    return None


def _name(file: IO[bytes]) -> str:
    return str(Path(f"/proc/self/fd/{file.fileno()}").readlink())


def merge(world: World, forest: NodeForest) -> None:
    """Unite the forests of all nodes, in a tree, and give all of them the roots; all ranks come here together."""
    world.allgather(None)  # what others on this node unite is in its forest
    if world.rank in forest.heads:
        _gather(Group(world, forest.heads), forest)
    world.allgather(None)
    forest.news()


def _gather(heads: Group, forest: Forest) -> None:
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


def _take(heads: Group, forest: Forest, source: int) -> None:
    """Merge another node's forest, a piece at a time."""
    for start in range(0, len(forest), MERGE_ROWS):
        piece = np.empty_like(forest.parent[start : start + MERGE_ROWS])
        heads.receive(piece, source).wait()
        forest.merge(piece, start)
        forest.news()
