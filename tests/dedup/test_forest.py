from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

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


class Paced:
    """Numbers that are read and written one by one, as numpy does, with something done before each."""

    def __init__(self, numbers: np.ndarray, before: Callable[[], None]) -> None:
        self._numbers, self._before = numbers, before

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return np.array([self._one(row) for row in rows], self._numbers.dtype)

    def _one(self, row: int) -> int:
        self._before()
        return self._numbers[row]

    def __setitem__(self, rows: np.ndarray, values: np.ndarray) -> None:
        for row, value in zip(rows, values.copy(), strict=True):
            self._before()
            self._numbers[row] = value


class Slow:
    """A look-up in a thread of its own that goes on by so many reads and writes as it is told to."""

    def __init__(self, numbers: np.ndarray, rows: list[int]) -> None:
        self.ended = False
        self._may, self._has = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(
            target=self._look, args=(Forest(len(numbers), Paced(numbers, self._wait)), rows)
        )
        self._thread.start()
        self._has.acquire()

    def _wait(self) -> None:
        self._has.release()
        self._may.acquire()

    def _look(self, forest: Forest, rows: list[int]) -> None:
        self._wait()
        forest.find(np.array(rows))
        self.ended = True
        self._has.release()

    def go(self, steps: int) -> None:
        """Go on by so many steps, or to the end."""
        for _ in range(steps):
            if not self.ended:
                self._may.release()
                self._has.acquire()

    def end(self) -> None:
        """Go on to the end."""
        self.go(10_000)
        self._thread.join()


# Sets that are there, edges that one process unites, and rows that another looks up meanwhile.
CASES = [
    ([(4, 3)], [(2, 3), (3, 1)], [4]),
    ([(4, 3)], [(3, 1), (2, 3)], [3]),
    ([(5, 4)], [(2, 4), (1, 3), (3, 4)], [5]),
]


@pytest.mark.parametrize(("there", "edges", "looked"), CASES)
def test_no_union_is_lost_to_a_look_up_that_stands_still_anywhere(there, edges, looked):
    """It begins before any step of the union, stands still after any step of its own, and ends before any later one."""
    begin = most = 0
    while begin <= most:
        for own in itertools.count(1):
            for end in range(begin, most + 1):
                most, found, news, ended = raced(there, edges, looked, (begin, own, end))
                assert found == plain(there + edges, 6), (begin, own, end)
                assert plain(there + news, 6) == found, (begin, own, end)
                if ended:
                    break
            if ended:
                break
        begin += 1
    assert most > 10


def raced(there, edges, looked, when) -> tuple[int, list[int], list[list[int]], bool]:
    """How many steps the union took, the root of each row, the news, and whether the look-up never stood still."""
    begin, own, end = when
    numbers = np.arange(6, dtype=np.int32)
    Forest(6, numbers).union(*np.array(there).T)
    slow, steps, ended = Slow(numbers, looked), 0, False

    def before() -> None:
        nonlocal steps, ended
        if steps == begin:
            slow.go(own)
            ended = slow.ended
        if steps == end:
            slow.end()
        steps += 1

    forest = Forest(6, Paced(numbers, before))
    forest.union(*np.array(edges).T)
    before()
    slow.end()
    return steps - 1, Forest(6, numbers).find(np.arange(6)).tolist(), forest.news().tolist(), ended
