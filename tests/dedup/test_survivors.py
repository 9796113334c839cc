from __future__ import annotations

from collections import Counter
from threading import get_ident
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from toolkit.data.stage import Stopped
from toolkit.dedup import survivors as module
from toolkit.dedup.exact import squares
from toolkit.dedup.share import Share
from toolkit.dedup.survivors import Survivors, survivors

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


@given(
    st.data(),
    st.sampled_from(["centroid", "first", "best"]),
    st.sampled_from([1, 2, 3, 4, 7]),
    st.sampled_from([1, 4]),
    st.sampled_from([(1, 1, 1), (2, 3, 8), (14, 2, 1), (21, 1, 4), (64, 5, 256)]),
)
@settings(max_examples=150)
def test_windows_of_any_size_change_nothing(reference, ring, data, keep, ranks, block, sizes):
    """Sets of one rank's part of a window or larger, pieces of sets, more sets than sums, and earlier rows."""
    rows = data.draw(hnp.arrays(np.float16, st.tuples(st.integers(0, 14), st.integers(1, 4)), elements=COARSE))
    root, earlier = data.draw(roots_of(len(rows))), data.draw(st.integers(0, len(rows)))
    ids = data.draw(hnp.arrays(np.uint8, (len(rows), 16), elements=st.integers(0, 3)))
    values = st.sampled_from([-1.5, 0.0, 2.0, float("nan")])
    worth = np.array(data.draw(st.lists(values, min_size=len(rows), max_size=len(rows))), np.float64)
    cut = {"ranks": ranks, "block": block, "earlier": earlier, "worth": worth}
    with pytest.MonkeyPatch.context() as patch:
        for name, size in zip(("WINDOW_ROWS", "CACHED_ROWS", "SCAN_ROWS"), sizes, strict=True):
            patch.setattr(module, name, size)
        patch.setattr(module, "chunk", lambda _: sizes[1])
        answer = ring.survivors(rows, root, ids, squares(rows), keep, **cut)
    expected = reference.choose(rows, root, [i.tobytes() for i in ids], keep, earlier, worth.tolist())
    assert as_list(answer) == expected
    assert answer.id.tolist() == ids[answer.row].tolist()


def test_ranks_decide_about_as_many_members_each(chosen, made, monkeypatch):
    """Duplicates that stand side by side, as those of one page do: half the roots are even and none is odd."""
    plain, done, rows = module.steps, Counter(), made.scattered(np.random.default_rng(3), 4800, 4)
    monkeypatch.setattr(module, "steps", lambda part: done.update({get_ident(): len(part)}) or plain(part))
    for ranks, among in ((2, 2), (4, 2), (3, 3), (2, 8)):
        done.clear()
        root = [i // among * among for i in range(4800)]
        chosen(rows, root, made.some_ids(np.random.default_rng(4), 4800), ranks=ranks, block=64)
        assert sum(done.values()) == 4800
        assert max(done.values()) < 1.1 * 4800 / ranks


@pytest.mark.parametrize("layout", ["side by side", "across", "on one rank", "of all sizes", "one"])
def test_no_rank_holds_more_members_than_a_window_of_all(chosen, made, monkeypatch, layout):
    """What one rank gives to others, or is given by them, at one time; sets are those of seven ranks."""
    held, rng, count, plain = [], np.random.default_rng(6), 700, module.swap
    root = {
        "side by side": np.arange(count) // 3 * 3,
        "across": np.arange(count) % 233,
        "on one rank": np.where(np.arange(count) < 100, np.arange(count) % 10, np.arange(count)),
        "of all sizes": np.searchsorted(np.cumsum(np.arange(1, 40)), np.arange(count), side="right"),
        "one": np.zeros(count, np.int64),
    }[layout]
    root = np.array([int(np.flatnonzero(root == label)[0]) for label in root])

    def swap(world, parts):
        came = plain(world, parts)
        if "row" in (parts[0].dtype.names or ()) and "size" in parts[0].dtype.names:
            held.append((sum(map(len, parts)), sum(map(len, came))))
        return came

    monkeypatch.setattr(module, "swap", swap)
    monkeypatch.setattr(module, "WINDOW_ROWS", 70)
    rows, ids = made.scattered(rng, count, 4), made.some_ids(rng, count)
    answer = chosen(rows, root.tolist(), ids, ranks=7, block=10)
    assert answer.size.tolist() == np.bincount(root, minlength=count)[root].tolist()
    assert all(gives <= 10 and takes <= 70 for gives, takes in held)
    assert bool(held) == (layout != "one")  # of a large set no member travels


@pytest.mark.parametrize("window", [1, 5, 64])
@pytest.mark.parametrize("ranks", [1, 2, 7])
def test_large_sets_are_worked_through_windows_of_any_size(reference, chosen, made, monkeypatch, window, ranks):
    monkeypatch.setattr(module, "WINDOW_ROWS", window)
    monkeypatch.setattr(module, "CACHED_ROWS", 4)
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


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("looks", [0, 1, 2, 9])
def test_all_ranks_stop_where_one_is_asked_to(ring, made, monkeypatch, ranks, looks):
    """While sets are counted, decided, or measured."""
    monkeypatch.setattr(module, "WINDOW_ROWS", 12)
    rows, ids = made.scattered(np.random.default_rng(5), 60, 4), made.some_ids(np.random.default_rng(5), 60)
    root = np.array([0] * 20 + [20 + i // 2 * 2 for i in range(40)])
    stopped = []

    def work(world):
        share, left = Share(world, 60, 8), iter(range(looks))
        stopping = (lambda: next(left, None) is None) if world.rank == 0 else (lambda: False)
        own = share.numbers
        with pytest.raises(Stopped):
            survivors(share, root, ids[own], squares(rows[own]), rows[own], stopping=stopping)
        stopped.append(world.rank)

    ring.together(ranks, work)
    assert sorted(stopped) == list(range(ranks))


@pytest.mark.parametrize("step", [1, 2, 3, 64, 4096, 10**6 + 3])
@pytest.mark.parametrize("ranks", [2, 3, 8, 128])
def test_sets_in_any_pattern_are_dealt_evenly(step, ranks):
    """Whatever lies between the roots, and beyond 2^31 rows."""
    for start in (0, 2**33 + 1):
        found = module.keys(start + step * np.arange(20_000))
        assert len(np.unique(found)) == 20_000
        assert 0 <= found.min() <= found.max() < module.KEYS
        assert np.bincount(module.judges(found, ranks)).max() <= 1.4 * 20_000 / ranks
        quarters = np.bincount(found // (module.KEYS // 4))
        assert quarters.max() <= 1.1 * quarters.min()  # so ranks that hold other rows cut windows at like keys


def test_keys_do_not_depend_on_how_roots_are_stored():
    roots = np.array([0, 1, 7, 2**31 - 1])
    assert module.keys(roots.astype(np.int32)).tolist() == module.keys(roots).tolist()
