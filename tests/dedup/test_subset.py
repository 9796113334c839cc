from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from toolkit.data.world import ALONE
from toolkit.dedup import subset as module
from toolkit.dedup.ledger import Ledger
from toolkit.dedup.ring import components
from toolkit.dedup.share import Share, block_rows
from toolkit.dedup.subset import Nowhere, recalled, subset
from toolkit.dedup.survivors import Survivors, survivors

COARSE = st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0])
NAN = float("nan")
KEEPS = ("centroid", "first", "best")


def joined(rows: np.ndarray, ids: np.ndarray, distance: float, keep: str = "centroid", worth=None) -> Survivors:
    """The answer of a join of all these rows."""
    share = Share(ALONE, len(rows), block_rows(len(rows)))
    forest, lengths = components(share, rows, distance, Ledger(share, rows.shape[1], distance, Nowhere))
    return survivors(share, forest.parent, ids, lengths, rows, keep=keep, worth=worth)


def as_list(answer: Survivors) -> list[tuple[int, int, float, bytes]]:
    columns = (answer.row.tolist(), answer.size.tolist(), answer.distance.tolist(), [i.tobytes() for i in answer.id])
    return list(zip(*columns, strict=True))


class Store:
    """Rows by number, and which of them were read."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows, self.asked = rows, []

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        assert (np.diff(numbers) > 0).all()
        self.asked += numbers.tolist()
        return self.rows[numbers]


@given(
    st.data(),
    hnp.arrays(np.float16, st.tuples(st.integers(0, 16), st.integers(1, 3)), elements=COARSE),
    st.sampled_from([(0.1, 0.1), (0.5, 0.5), (1.0, 0.3), (1.5, 1.5), (0.6, 0.5)]),
    st.sampled_from(KEEPS),
    st.sampled_from([1, 5, 1000]),
)
@settings(max_examples=150)
def test_the_answer_is_that_of_the_definition_for_the_remaining_rows(reference, data, rows, distances, keep, size):
    before, after = distances
    alive = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))), bool)
    few = st.integers(0, 2)  # equal values are common, equal ids are not
    ids = data.draw(hnp.arrays(np.uint8, (len(rows), 16), elements=few))
    ids[:, 15] = np.random.default_rng(len(rows)).permutation(len(rows))
    worth = np.array(data.draw(st.lists(st.sampled_from([0.0, 1.0, NAN]), min_size=len(rows), max_size=len(rows))))
    store = Store(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "READ_ROWS", 2 * size)
        patch.setattr(module, "GROUP_ROWS", size)
        old = joined(rows, ids, before, keep, worth)
        options = {"joined": before, "distance": after, "keep": keep, "worth": worth}
        found = subset(old, alive, ids, store, **options)
    left = rows[alive]
    names = [i.tobytes() for i in ids[alive]]
    expected = reference.choose(left, reference.sets(left, after), names, keep, worth=worth[alive])
    numbers = np.flatnonzero(alive)
    assert found.numbers.tolist() == numbers.tolist()
    assert as_list(found) == [(numbers[row], count, far, names[row]) for row, count, far in expected]
    assert len(set(store.asked)) == len(store.asked)


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("distance", [0.1, 0.05])
def test_the_answer_is_that_of_a_join_of_the_remaining_rows(made, keep, distance):
    rng = np.random.default_rng(31)
    rows = np.concatenate([made.clustered(rng, 300, 16, 0.3, centres=60), made.scattered(rng, 50, 16)])
    rows[7], rows[8, 2] = 0, np.nan
    ids, worth, alive = made.some_ids(rng, 350), rng.standard_normal(350), rng.random(350) < 0.8
    found = subset(
        joined(rows, ids, 0.1, keep, worth),
        alive,
        ids,
        Store(rows),
        joined=0.1,
        distance=distance,
        keep=keep,
        worth=worth,
    )
    plain = joined(rows[alive], ids[alive], distance, keep, worth[alive])
    numbers = np.flatnonzero(alive)
    assert as_list(found) == [(numbers[row], *others) for row, *others in as_list(plain)]


def test_a_set_that_a_lost_row_held_together_falls_apart(made):
    rows, ids = made.chained(9, 8, angle=0.4), made.some_ids(np.random.default_rng(1), 9)
    alive = np.arange(9) != 4
    store = Store(rows)
    old = joined(rows, ids, 0.1)
    assert old.size.tolist() == [9] * 9
    found = subset(old, alive, ids, store, joined=0.1, distance=0.1)
    assert found.size.tolist() == [4] * 8
    assert len(set(found.row.tolist())) == 2


def test_only_sets_that_lost_rows_are_read(made):
    rows = made.scattered(np.random.default_rng(2), 5, 32)[[0, 1, 0, 1, 2, 3, 1, 3, 4]]
    ids = made.some_ids(np.random.default_rng(3), 9)
    alive = np.array([True, True, True, False, True, False, True, True, False])
    store = Store(rows)
    old = joined(rows, ids, 0.1)
    found = subset(old, alive, ids, store, joined=0.1, distance=0.1)
    assert store.asked == [1, 6, 7]
    assert found.size.tolist() == [2, 2, 2, 1, 2, 1]
    assert subset(old, np.ones(9, bool), ids, store, joined=0.1, distance=0.1).row.tolist() == old.row.tolist()
    assert len(subset(old, np.zeros(9, bool), ids, store, joined=0.1, distance=0.1).row) == 0
    assert store.asked == [1, 6, 7]


def test_a_larger_distance_is_refused(made):
    rows, ids = made.chained(3, 8, angle=0.4), made.some_ids(np.random.default_rng(1), 3)
    with pytest.raises(ValueError, match="all rows have to be joined"):
        subset(joined(rows, ids, 0.1), np.ones(3, bool), ids, Store(rows), joined=0.1, distance=0.2)


def test_the_answer_of_tables_is_recalled(made):
    rows, ids = made.chained(6, 8, angle=0.4)[[0, 1, 2, 0, 5, 5]], made.some_ids(np.random.default_rng(1), 6)
    rows[4:] = -rows[4:]
    old = joined(rows, ids, 0.1)
    again = recalled(ids, old.id, old.size, old.distance)
    assert as_list(again) == as_list(old)
    assert again.dropped.tolist() == old.dropped.tolist()


def test_sets_of_earlier_rows_are_kept_and_never_joined_again(made):
    """Rows 0 and 1 are like an image of an earlier run; rows 2 and 3 are like each other."""
    rng = np.random.default_rng(5)
    ids, earlier, rows = made.some_ids(rng, 4), made.some_ids(rng, 1)[0], made.scattered(rng, 2, 16)[[0, 0, 1, 1]]
    old = recalled(ids, np.stack([earlier, earlier, ids[2], ids[2]]), np.array([3, 3, 2, 2]), np.zeros(4))
    assert old.dropped.tolist() == [True, True, False, True]
    lost = subset(old, np.array([True, True, False, True]), ids, Store(rows), joined=0.1, distance=0.1)
    assert [i.tobytes() for i in lost.id] == [earlier.tobytes(), earlier.tobytes(), ids[3].tobytes()]
    assert lost.size.tolist() == [3, 3, 1]
    with pytest.raises(ValueError, match="earlier rows stand for"):
        subset(old, np.array([True, False, True, True]), ids, Store(rows), joined=0.1, distance=0.1)
