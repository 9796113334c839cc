"""Ranks unite rows of one forest at once and without pause; rank 0 prints what came of it as JSON.

Argument: how many forests. Each rank draws edges from a few sets at a time, so that all hook the same roots again and
again.
"""

from __future__ import annotations

import json
import random
import sys
import time

import numpy as np

from toolkit.dedup.node import NodeForest, merge
from toolkit.run import mpi

ROWS, BATCH = 3000, 40


class Slow(NodeForest):
    """A forest whose ranks are interrupted between looking and hooking, which on an idle machine they hardly are."""

    def apart(self, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the roots that differ, later."""
        found = super().apart(left, right)
        time.sleep(1e-4 * random.random())
        return found


def main() -> None:
    """Grow forests one after another; count those with a wrong set, and with wrong news."""
    world = mpi.world()
    rng = np.random.default_rng(world.rank)
    random.seed(world.rank)
    forests = wrong = untold = 0
    while world.bcast(forests < int(sys.argv[1])):
        forest, edges = Slow(world, ROWS), []
        assert forest.heads == [0]
        for _ in range(12):
            left = rng.integers(ROWS, size=BATCH)
            right = np.minimum(ROWS - 1, left + rng.integers(3, size=BATCH))
            forest.union(left, right)
            forest.find(rng.integers(ROWS, size=500))
            edges.append(np.stack([left, right], axis=1))
        news = world.allgather(forest.news().tolist())
        all_edges = [edge for part in world.allgather(np.concatenate(edges).tolist()) for edge in part]
        merge(world, forest)
        if world.rank == 0:
            expected = plain(all_edges)
            forests += 1
            wrong += forest.parent.tolist() != expected
            untold += plain([edge for part in news for edge in part]) != expected
        world.allgather(None)
    if world.rank == 0:
        print(json.dumps({"forests": forests, "wrong": wrong, "untold": untold}))


def plain(edges: list[list[int]]) -> list[int]:
    """The smallest row of each row's set, edge by edge."""
    parent = list(range(ROWS))

    def root(row: int) -> int:
        while parent[row] != row:
            row = parent[row]
        return row

    for a, b in edges:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return [root(row) for row in range(ROWS)]


main()
