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
    forest.merge(grown(other).parent)
    assert forest.roots().tolist() == plain(one + other)


@given(EDGES, EDGES, st.integers(1, 50))
def test_forests_merge_in_pieces(one, other, size):
    forest, news = grown(one), grown(other).parent
    for start in range(0, ROWS, size):
        forest.merge(news[start : start + size], start)
    assert forest.roots().tolist() == plain(one + other)


@given(EDGES, EDGES, st.integers(1, 60))
def test_the_news_make_the_same_sets_and_are_told_once(one, other, batch):
    forest = grown(one, batch)
    first = forest.news().tolist()
    for a, b in other:
        forest.union(np.array([a]), np.array([b]))
    later = forest.news().tolist()
    assert plain(first) == plain(one)
    assert plain(first + later) == plain(one + other)
    assert len(first + later) == ROWS - len(set(plain(one + other)))
    assert forest.news().tolist() == []


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


def test_an_empty_forest_has_no_roots():
    assert Forest(0).roots().tolist() == []
