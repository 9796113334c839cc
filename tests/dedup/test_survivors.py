from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from toolkit.dedup import survivors as module
from toolkit.dedup.exact import squares
from toolkit.dedup.survivors import Survivors

FINITE = st.floats(width=16, allow_nan=False, allow_infinity=False)
COARSE = st.sampled_from([-1.0, 0.0, 0.5, 1.0])


@pytest.fixture(scope="session")
def chosen(ring):
    def choose(rows: np.ndarray, root: list[int], ids: np.ndarray, keep: str = "centroid", **cut: Any) -> Survivors:
        answer = ring.survivors(rows, root, ids, squares(rows), keep, **cut)
        assert answer.id.tolist() == ids[answer.row].tolist()
        return answer

    return choose


def as_list(answer: Survivors) -> list[tuple[int, int, float]]:
    return list(zip(answer.row.tolist(), answer.size.tolist(), answer.distance.tolist(), strict=True))


def roots_of(count: int) -> st.SearchStrategy[list[int]]:
    """Sets in normal form: the root is the smallest row."""
    labels = st.lists(st.integers(0, 4), min_size=count, max_size=count)
    return labels.map(lambda values: [values.index(v) for v in values])


@given(
    st.data(),
    st.sampled_from([FINITE, COARSE]),
    st.sampled_from(["centroid", "first"]),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 4]),
)
def test_survivors_are_those_of_the_definition(reference, chosen, data, values, keep, ranks, block):
    rows = data.draw(hnp.arrays(np.float16, st.tuples(st.integers(0, 12), st.integers(1, 4)), elements=values))
    root = data.draw(roots_of(len(rows)))
    few = st.integers(0, 3)  # equal ids and ties are common
    ids = data.draw(hnp.arrays(np.uint8, (len(rows), 16), elements=few))
    expected = reference.choose(rows, root, [i.tobytes() for i in ids], keep)
    assert as_list(chosen(rows, root, ids, keep, ranks=ranks, block=block)) == expected


@given(st.data(), st.sampled_from([1, 2, 3, 7]), st.sampled_from([1, 4]))
def test_the_best_of_a_set_are_those_of_the_definition(reference, chosen, data, ranks, block):
    rows = data.draw(hnp.arrays(np.float16, st.tuples(st.integers(0, 12), st.integers(1, 4)), elements=COARSE))
    root = data.draw(roots_of(len(rows)))
    ids = data.draw(hnp.arrays(np.uint8, (len(rows), 16), elements=st.integers(0, 3)))
    values = st.sampled_from([-1.5, -0.0, 0.0, 1e-300, 2.0, 1e300, float("nan")])
    worth = np.array(data.draw(st.lists(values, min_size=len(rows), max_size=len(rows))), np.float64)
    expected = reference.choose(rows, root, [i.tobytes() for i in ids], "best", worth=worth.tolist())
    assert as_list(chosen(rows, root, ids, "best", worth=worth, ranks=ranks, block=block)) == expected


@pytest.mark.parametrize("window", [1, 5, 64])
@pytest.mark.parametrize("ranks", [1, 2, 7])
def test_large_sets_are_worked_through_windows_of_any_size(reference, chosen, made, monkeypatch, window, ranks):
    monkeypatch.setattr(module, "WINDOW_ROWS", window)
    rng = np.random.default_rng(8)
    rows, ids = made.clustered(rng, 60, 24, 0.3, centres=1), made.some_ids(rng, 60)
    root = [0] * 40 + list(range(40, 50)) + [50] * 3 + [53] * 7
    assert as_list(chosen(rows, root, ids, ranks=ranks, block=7)) == reference.choose(
        rows, root, [i.tobytes() for i in ids], "centroid"
    )


def test_the_nearest_to_the_centroid_stays_whatever_its_id(chosen, made):
    rows = made.chained(3, 8, angle=0.3)
    ids = np.zeros((3, 16), dtype=np.uint8)
    ids[:, 0] = [0, 9, 5]
    answer = chosen(rows, [0, 0, 0], ids)
    assert answer.row.tolist() == [1, 1, 1]
    assert answer.dropped.tolist() == [True, False, True]
    assert answer.distance[1] == pytest.approx(0, abs=1e-6)
    assert answer.distance[0] == pytest.approx(1 - np.cos(0.3), abs=1e-3)


@pytest.mark.parametrize("keep", ["centroid", "first"])
def test_sets_of_two_and_ties_go_to_the_smallest_id(chosen, keep):
    rows = np.array([[1, 0], [0.9, 0.1], [1, 0], [1, 0], [1, 0]], dtype=np.float16)
    ids = np.zeros((5, 16), dtype=np.uint8)
    ids[:, 15] = [9, 4, 8, 7, 255]
    ids[4, 7] = 1  # larger only in the first half of the id
    assert chosen(rows, [0, 0, 2, 2, 2], ids, keep).row.tolist() == [1, 1, 3, 3, 3]


def test_rows_alone_are_never_read(chosen, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "steps", lambda rows: asked.append(len(rows)))
    answer = chosen(np.zeros((3, 4), np.float16), [0, 1, 2], np.zeros((3, 16), np.uint8))
    assert as_list(answer) == [(0, 1, 0.0), (1, 1, 0.0), (2, 1, 0.0)]
    assert not answer.dropped.any()
    assert asked == []


def test_a_centroid_without_direction_is_at_distance_one(chosen):
    rows = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], dtype=np.float16)
    assert chosen(rows, [0] * 4, np.zeros((4, 16), np.uint8)).distance.tolist() == [1.0] * 4
