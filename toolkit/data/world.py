"""The ranks that work on one unit together, as a stage sees them: few operations, of which buffers are the heart.

A stage is given its world and never asks where it came from: one process is a world too (`Alone`), run/mpi.py makes
one of MPI ranks. Values travel pickled and must be small; rows travel as arrays, of any size, without a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

Value = TypeVar("Value")


class Transfer(Protocol):
    """An array on its way; it must stay as it is until `wait` returns."""

    def poke(self) -> None:
        """Let the transfer go on: MPI moves large arrays only while it is called."""

    def wait(self) -> None:
        """Return when the array has arrived, or may be changed again."""


class Post(Protocol):
    """Ranks 0 .. size - 1 that send each other arrays."""

    @property
    def rank(self) -> int:
        """Return which of the ranks this process is."""

    @property
    def size(self) -> int:
        """Return how many ranks there are."""

    def send(self, array: Any, to: int) -> Transfer:
        """Start to send a contiguous array of any dtype to another rank."""

    def receive(self, array: Any, source: int) -> Transfer:
        """Start to fill a contiguous array with what `source` sends; sizes agree, order is that of sending."""


class World(Post, Protocol):
    """All ranks of a unit, of which rank 0 alone writes; they say what is said here together, in the same order."""

    def bcast(self, value: Value) -> Value:
        """Return the small value that rank 0 gives, on every rank."""

    def allgather(self, value: Value) -> list[Value]:
        """Return the small values that all ranks give, in their order, on every rank."""


class Group:
    """Some ranks of a world, this one among them, numbered anew in the order given."""

    def __init__(self, world: Post, ranks: Sequence[int]) -> None:
        self._world, self._ranks = world, ranks
        self.rank, self.size = ranks.index(world.rank), len(ranks)

    def send(self, array: Any, to: int) -> Transfer:
        """Start to send an array."""
        return self._world.send(array, self._ranks[to])

    def receive(self, array: Any, source: int) -> Transfer:
        """Start to receive an array."""
        return self._world.receive(array, self._ranks[source])


class Alone:
    """A world of one rank."""

    rank = 0
    size = 1

    def bcast(self, value: Value) -> Value:
        """Return the value."""
        return value

    def allgather(self, value: Value) -> list[Value]:
        """Return the value as the only one."""
        return [value]

    def send(self, array: Any, to: int) -> Transfer:
        """Refuse: there is nobody else."""
        raise ValueError(f"a world of one rank has no rank {to}")

    def receive(self, array: Any, source: int) -> Transfer:
        """Refuse: there is nobody else."""
        raise ValueError(f"a world of one rank has no rank {source}")


ALONE = Alone()
