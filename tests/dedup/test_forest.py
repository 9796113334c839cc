from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.dedup.forest import Forest

ROWS = 40
EDGES = st.lists(st.tuples(st.integers(0, ROWS - 1), st.integers(0, ROWS - 1)), max_size=60)


def plain(edges: list[tuple[int, int]], rows: int = ROWS) -> list[int]:
    root = list(range(rows))
    for a, b in edges:
        low, high = sorted((root[a], root[b]))
        root = [low if r == high else r for r in root]
    return root


def grown(edges: list[tuple[int, int]], batch: int = 1000) -> Forest:
    forest = Forest(ROWS)
    for start in range(0, len(edges), batch):
        left, right = np.array(edges[start : start + batch], dtype=np.int64).T
        forest.union(left, right)
    return forest


@given(EDGES, st.integers(1, 60))
def test_roots_are_the_smallest_rows_for_any_batches(edges, batch):
    forest = grown(edges, batch)
    assert forest.find(np.arange(ROWS)).tolist() == plain(edges)
    assert forest.roots().tolist() == plain(edges)


@given(EDGES, EDGES)
def test_merging_two_forests_is_having_both_edges(one, other):
    forest = grown(one)
    forest.merge(grown(other))
    assert forest.roots().tolist() == plain(one + other)


@pytest.mark.parametrize("order", [1, -1])
def test_a_long_chain_becomes_one_set(order):
    forest = Forest(20_000)
    links = np.arange(19_999)[::order]
    forest.union(links, links + 1)
    assert not forest.roots().any()


def test_a_chain_that_grows_by_single_edges_becomes_one_set():
    forest = Forest(500)
    for row in reversed(range(499)):
        forest.union(np.array([row]), np.array([row + 1]))
    assert forest.find(np.array([499])).tolist() == [0]


def test_a_star_becomes_one_set():
    forest = Forest(1001)
    forest.union(np.full(1000, 1000), np.arange(1000))
    assert not forest.roots().any()


def test_forests_of_different_rows_do_not_merge():
    with pytest.raises(ValueError, match="3 and 4 rows"):
        Forest(3).merge(Forest(4))


def test_an_empty_forest_has_no_roots():
    assert Forest(0).roots().tolist() == []
