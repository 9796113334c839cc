from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.dedup import node
from toolkit.dedup.node import NodeForest, merge, seat

PROJECT = Path(__file__).parents[2]
ROWS = 30
EDGES = st.lists(st.tuples(st.integers(0, ROWS - 1), st.integers(0, ROWS - 1)), max_size=20)
HOSTS = st.lists(st.tuples(st.sampled_from("abc"), EDGES), min_size=1, max_size=6)


def plain(edges: list[tuple[int, int]]) -> list[int]:
    root = list(range(ROWS))
    for a, b in edges:
        low, high = sorted((root[a], root[b]))
        root = [low if r == high else r for r in root]
    return root


def placed(patch: pytest.MonkeyPatch, names: str) -> None:
    patch.setattr(node, "hosts", lambda world: list(names))


def unite(forest: NodeForest, edges: list[tuple[int, int]]) -> None:
    for a, b in edges:
        forest.union(np.array([a]), np.array([b]))


@given(HOSTS, st.integers(1, ROWS))
@settings(max_examples=60)
def test_all_ranks_end_with_the_sets_of_all_edges(ring, given, piece):
    edges = [edge for _, some in given for edge in some]

    def work(world: Any) -> tuple[list[int], list[list[int]]]:
        forest = NodeForest(world, ROWS)
        unite(forest, given[world.rank][1])
        news = world.allgather(forest.news().tolist())
        merge(world, forest)
        assert forest.news().tolist() == []
        return forest.parent.tolist(), [edge for some in news for edge in some]

    with pytest.MonkeyPatch.context() as patch:
        placed(patch, "".join(name for name, _ in given))
        patch.setattr(node, "MERGE_ROWS", piece)
        found = ring.together(len(given), work)
    assert all(roots == plain(edges) for roots, _ in found)
    assert plain(found[0][1]) == plain(edges)


def test_what_one_rank_unites_its_neighbours_see_and_other_nodes_do_not(ring, monkeypatch):
    placed(monkeypatch, "abba")

    def work(world: Any) -> tuple[list[int], int]:
        forest = NodeForest(world, ROWS)
        world.allgather(None)
        if world.rank == 3:
            unite(forest, [(4, 9)])
        world.allgather(None)
        assert (forest.heads, forest.told) == ([0, 1], [])
        return int(forest.find(np.array([9]))[0]), len(forest.news())

    assert ring.together(4, work) == [(4, 0), (9, 0), (9, 0), (4, 1)]


def test_a_rank_alone_on_its_node_shares_nothing(ring, monkeypatch):
    placed(monkeypatch, "aba")
    forests = ring.together(3, lambda world: NodeForest(world, 5))
    assert [forest.parent.base is None for forest in forests] == [False, True, False]
    assert [forest.heads for forest in forests] == [[0, 1]] * 3


@pytest.mark.parametrize("missing", ["memory", "proc", "name"])
def test_a_rank_that_can_not_open_the_memory_has_a_forest_of_its_own(ring, monkeypatch, missing):
    """There is none, the offering process is not to be seen, or its number is that of another one here."""
    placed(monkeypatch, "aaaa")
    open_, lost = node._opened, threading.local()

    def opened(offer: node.Offer, rows: int) -> Any:
        wrong = {"proc": {"path": "/proc/0/fd/3"}, "name": {"name": "memfd:another"}}
        return open_(offer._replace(**wrong[missing]) if hasattr(lost, "yes") else offer, rows)

    monkeypatch.setattr(node, "_opened", opened)
    if missing == "memory":
        monkeypatch.delattr(os, "memfd_create")

    def work(world: Any) -> tuple[list[int], list[int]]:
        if world.rank == 2:
            lost.yes = True
        forest = NodeForest(world, ROWS)
        unite(forest, [(world.rank, world.rank + 1)])
        merge(world, forest)
        assert forest.told == [f"{len(heads)} forests of 0.0 GB where 1 would do: some ranks can not share memory"]
        return forest.heads, forest.parent.tolist()

    heads = [0, 1, 2, 3] if missing == "memory" else [0, 2]
    assert ring.together(4, work) == [(heads, [0] * 5 + list(range(5, ROWS)))] * 4


@pytest.mark.parametrize(
    ("limit", "work"),
    [("FSIZE", "make"), ("NOFILE", "make"), ("NOFILE", "open"), ("AS", "make"), ("AS", "open")],
)
def test_where_a_process_is_limited_there_is_no_common_memory_and_no_error(limit, work):
    command = [sys.executable, "-c", LIMITED, limit, work]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT)
    assert done.stdout == "None\n", done.stderr


LIMITED = """
import resource, sys
from pathlib import Path
from toolkit.dedup import node

limit, work = sys.argv[1:]
made = node._made(1 << 20)
words = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
least = {"FSIZE": 1 << 20, "NOFILE": 1, "AS": (int(words["VmSize"].split()[0]) + 1024) << 10}[limit]
resource.setrlimit(getattr(resource, f"RLIMIT_{limit}"), (least, least))
print(node._made(1 << 20) if work == "make" else node._opened(made.offer, 1 << 20))
"""


def test_a_forest_of_no_rows_is_no_matter(ring):
    assert [len(forest) for forest in ring.together(2, lambda world: NodeForest(world, 0))] == [0, 0]


def test_memory_is_given_back(ring):
    """Descriptors, too: a merge after many batches in one process must not run out of them."""
    gc.collect()  # what an earlier test has left goes now
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        ring.together(3, lambda world: merge(world, NodeForest(world, ROWS)))
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_ranks_take_their_seats(ring, monkeypatch):
    placed(monkeypatch, "abbab")
    assert ring.together(5, seat) == [0, 0, 1, 1, 2]
