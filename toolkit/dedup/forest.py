"""A union-find forest over row numbers, worked in batches: connected components without a list of edges.

Promise: the root of a set is its smallest row number, whatever the order in which edges came. Memory is 4
bytes a row (8 from 2^31 rows on) plus what one batch of edges takes, plus 16 bytes for each union since `news` was
last asked for, of which there are never more than rows.

Several processes may work on one forest in shared memory (node.py). Roots are hooked by `union` alone, which they take
turns to do, and each once, for good. So whoever was an ancestor of a row stays one, and `find` needs no turn: it writes
only to rows that are no longer roots, and only ancestors of theirs, however old. It must never see a root hooked first
to one row and then to another: a look-up that is slow would write the first one back.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[Any]  # int32 or int64 row numbers, (m,)
Turns: TypeAlias = AbstractContextManager[object]

ROOT_ROWS = 1 << 20  # rows whose roots are looked up together


def kind(rows: int) -> np.dtype[Any]:
    """Return the type of the row numbers of a forest."""
    return np.dtype(np.int32 if rows < 2**31 else np.int64)


class Forest:
    """Sets of the rows 0 .. n-1; `parent[i] <= i`, and equal exactly at a root.

    parent: (n,) numbers that others may work on too, of `kind`, each row a root at first · turn: what others hold while
    they unite.
    """

    def __init__(self, rows: int, parent: Rows | None = None, turn: Turns | None = None) -> None:
        self.parent: Rows = np.arange(rows, dtype=kind(rows)) if parent is None else parent
        self._turn = turn or nullcontext()
        self._hooks: list[npt.NDArray[np.int64]] = []

    def __len__(self) -> int:
        return len(self.parent)

    def find(self, rows: Rows) -> Rows:
        """Return the root of each given row; the paths walked are halved, and end at the root."""
        parent = self.parent
        roots = parent[rows]
        far = open_ = np.flatnonzero(parent[roots] != roots)
        while open_.size:
            node = roots[open_]
            parent[node] = up = parent[parent[node]]
            roots[open_] = up
            open_ = open_[parent[up] != up]
        parent[rows[far]] = roots[far]
        return roots

    def apart(self, left: Rows, right: Rows) -> tuple[Rows, Rows]:
        """Return the roots of left[i] and right[i] where they differ."""
        left, right = self.find(left), self.find(right)
        differ = left != right
        return left[differ], right[differ]

    def union(self, left: Rows, right: Rows) -> None:
        """Join the sets of left[i] and right[i] for all i at once.

        Each round hooks every root that an edge shows a smaller root for, to the smallest such root (so a star takes
        two rounds and not one an arm), then goes on with the edges that still join two sets. Hooked roots point to
        smaller roots, so no cycle can arise.
        """
        left, right = self.apart(left, right)
        if not len(left):
            return
        with self._turn:
            while True:
                left, right = self.apart(left, right)
                if not len(left):
                    return
                self._hook(np.maximum(left, right), np.minimum(left, right))

    def _hook(self, high: Rows, low: Rows) -> None:
        """Hook each root in `high` to the smallest root beside it."""
        roots, at = np.unique(high, return_inverse=True)
        least = np.full_like(roots, len(self))
        np.minimum.at(least, at, low)
        self.parent[roots] = least
        self._hooks.append(np.stack([roots, least], axis=1).astype(np.int64))

    def news(self) -> npt.NDArray[np.int64]:
        """Return the unions since the last call as edges (m, 2) that make the same sets; they are forgotten here."""
        hooks = np.concatenate([np.empty((0, 2), np.int64), *self._hooks])
        self._hooks = []
        return hooks

    def roots(self) -> Rows:
        """Return the root of every row, (n,): the smallest row number of its set. It is `parent`, worked in place."""
        for start in range(0, len(self), ROOT_ROWS):
            self.find(np.arange(start, min(start + ROOT_ROWS, len(self))))
        return self.parent

    def merge(self, parents: Rows, start: int = 0) -> None:
        """Take over a piece of a forest over the same rows, which another worker has grown: parent[start:]."""
        rows = np.arange(start, start + len(parents), dtype=parents.dtype)
        hooked = np.flatnonzero(parents != rows)
        self.union(rows[hooked], parents[hooked])
