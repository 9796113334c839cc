from __future__ import annotations

from contextlib import suppress
from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from toolkit.data.stage import Stopped
from toolkit.dedup import ledger as ledgers
from toolkit.dedup import node
from toolkit.dedup import ring as module
from toolkit.dedup import twins as hashing
from toolkit.dedup.exact import squares
from toolkit.dedup.ring import falls, laps
from toolkit.dedup.screens import choice
from toolkit.dedup.share import FEW_BLOCKS, MAX_BLOCKS, MAX_ROWS, MIN_ROWS, Share, block_rows, swap
from toolkit.dedup.survivors import survivors
from toolkit.dedup.twins import twins

RANKS = (1, 2, 3, 4, 7)
COARSE = st.sampled_from([-1.0, -0.5, -(2.0**-24), 0.0, 2.0**-24, 0.25, 0.5, 1.0])
ANY = st.floats(width=16)


def rows_of(values: st.SearchStrategy[float]) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(np.float16, st.tuples(st.integers(0, 24), st.integers(1, 5)), elements=values)


@given(
    rows_of(COARSE),
    st.sampled_from([1e-12, 0.1, 0.25, 0.5, 1.0, 1.5]),
    st.sampled_from(RANKS),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 4),
)
def test_sets_are_those_of_the_definition_for_any_ranks_and_blocks(
    ring, reference, rows, distance, ranks, block, tile, seats
):
    assert ring.sets(rows, distance, block, ranks, tile, seats=seats) == reference.sets(rows, distance)


@given(rows_of(ANY), st.floats(1e-6, 1.9), st.sampled_from(RANKS), st.integers(1, 5))
@settings(max_examples=50)
def test_sets_of_any_float16_rows_are_those_of_the_definition(ring, reference, rows, distance, ranks, block):
    valid = np.isfinite(rows).all(axis=1)
    expected = reference.sets(np.where(valid[:, None], rows, 0).astype(np.float16), distance)
    assert ring.sets(rows, distance, block, ranks) == expected


@pytest.mark.parametrize("dim", [8, 1024])
@pytest.mark.parametrize("ranks", RANKS)
def test_clusters_around_the_limit(ring, reference, made, dim, ranks):
    rng = np.random.default_rng(dim)
    rows = np.concatenate([made.clustered(rng, 20, dim, 0.33), made.scattered(rng, 4, dim)])
    assert ring.sets(rows, 0.1, 3, ranks) == reference.sets(rows, 0.1)


@pytest.mark.parametrize("panel", [1, 6, 100])
@pytest.mark.parametrize("ranks", RANKS)
def test_a_chain_through_all_ranks_is_one_set(ring, made, monkeypatch, ranks, panel):
    monkeypatch.setattr(choice, "PANEL_BYTES", panel * 4 * 8)  # rows of 8 float32 values
    monkeypatch.setattr(node, "MERGE_ROWS", 11)
    rows = made.chained(150, 8, angle=0.04)[np.random.default_rng(1).permutation(150)]
    assert set(ring.sets(rows, 0.001, 3, ranks, tile=2)) == {0}


@pytest.mark.parametrize("ranks", range(1, 10))
@pytest.mark.parametrize("blocks", [0, 1, 2, 5, 12, 16])
def test_every_pair_of_blocks_meets_once(ranks, blocks):
    """The schedule alone, as the ranks walk it."""
    shares = [Share(Place(rank, ranks), blocks * 10, 10) for rank in range(ranks)]
    most = max(len(share.held(r)) for r, share in enumerate(shares))
    met = []
    for rank, share in enumerate(shares):
        own = share.held(rank)
        met += list(combinations_with_replacement(own, 2))
        for lap, step in laps(most, ranks):
            theirs = share.held((rank + step) % ranks)
            for visitor in theirs[lap : lap + 1]:
                met += [tuple(sorted((one, visitor))) for one in own if 2 * step != ranks or falls(one, visitor)]
    assert sorted(met) == list(combinations_with_replacement(range(blocks), 2))


class Place:
    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


@given(st.integers(0, 300), st.integers(1, 40), st.integers(1, 9))
def test_ranks_hold_runs_of_blocks_of_equal_length(rows, block, ranks):
    shares = [Share(Place(rank, ranks), rows, block) for rank in range(ranks)]
    assert [n for share in shares for n in share.numbers.tolist()] == list(range(rows))
    lengths = [len(share.held(rank)) for rank, share in enumerate(shares)]
    assert max(lengths) - min(lengths) <= 1
    assert lengths[0] == max(lengths)  # rank 0 shows the progress
    owners = shares[0].owners(np.arange(rows)).tolist()
    assert owners == [rank for rank, share in enumerate(shares) for _ in share.numbers]


@pytest.mark.parametrize("rows", [0, 1, 2047, 10**5, 10**6, 10**7, 134_000_000, 10**9])
def test_blocks_depend_on_the_rows_alone_and_are_neither_few_nor_many(rows):
    size = block_rows(rows)
    assert size >= MIN_ROWS
    assert -(-rows // size) <= MAX_BLOCKS
    assert size in (MIN_ROWS, MAX_ROWS) or rows // size <= FEW_BLOCKS or -(-rows // size) == MAX_BLOCKS


@pytest.mark.parametrize("ranks", RANKS)
def test_parts_are_swapped_and_rows_fetched(ring, ranks):
    def work(world):
        parts = [np.full((to % 3, 2), 10 * world.rank + to, np.float16) for to in range(ranks)]
        share = Share(world, 50, 4)
        wanted = np.array([49, 0, 13, 13, 48])[: world.rank]
        own = share.numbers.astype(np.float64)
        return [part.tolist() for part in swap(world, parts)], share.fetch(own, wanted).tolist()

    for rank, (swapped, fetched) in enumerate(ring.together(ranks, work)):
        assert swapped == [[[10 * source + rank] * 2] * (rank % 3) for source in range(ranks)]
        assert fetched == [49, 0, 13, 13, 48][:rank]


@given(
    hnp.arrays(np.float16, st.tuples(st.integers(0, 12), st.integers(1, 3)), elements=COARSE),
    st.sampled_from(RANKS),
    st.integers(1, 4),
)
def test_twins_are_the_first_equal_rows(ring, rows, ranks, block):
    data = [row.tobytes() for row in rows]
    assert found_twins(ring, rows, ranks, block) == [data.index(row) for row in data]


def found_twins(ring, rows: np.ndarray, ranks: int, block: int) -> list[int]:
    def work(world):
        share = Share(world, len(rows), block)
        return twins(share, rows[share.begin : share.end]).tolist()

    return [first for part in ring.together(ranks, work) for first in part]


@pytest.mark.parametrize("ranks", RANKS)
def test_twins_are_found_though_all_hashes_collide(ring, made, monkeypatch, ranks):
    monkeypatch.setattr(hashing, "HASH_BASE", np.uint64(0))
    rows = made.scattered(np.random.default_rng(6), 3, 8)[[0, 1, 0, 2, 0]]
    assert found_twins(ring, rows, ranks, 1) == [0, 1, 0, 3, 0]
    assert ring.sets(rows, 0.01, 1, ranks) == [0, 1, 0, 3, 0]


@pytest.mark.parametrize("ranks", RANKS)
def test_progress_adds_up_to_the_rows(ring, made, ranks):
    told: list[int] = []
    rows = made.clustered(np.random.default_rng(4), 61, 8, 0.3)
    ring.sets(rows, 0.1, 4, ranks, advance=told.append)
    assert sum(told) == 61 * ranks  # each rank tells; only rank 0 is shown
    assert min(told) > 0


class Alarm:
    """Asks to stop after so many looks."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def __call__(self) -> bool:
        self.looks -= 1
        return self.looks < 0


@given(
    st.sampled_from((1, 2, 3)),
    st.lists(st.tuples(st.sampled_from((1, 2, 3)), st.integers(0, 40)), max_size=3),
    st.booleans(),
)
@settings(max_examples=15)
def test_a_join_that_is_stopped_again_and_again_gives_the_same_sets(ring, made, ranks, stops, often):
    rows = made.clustered(np.random.default_rng(9), 40, 8, 0.3, centres=6)
    expected = ring.sets(rows, 0.1, 5)
    memory = ring.Memory()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledgers, "SAVE_FLOPS", 0)
        patch.setattr(module, "SAVE_FLOPS", 0 if often else 10**12)
        for before, looks in stops:
            with suppress(Stopped):
                ring.sets(rows, 0.1, 5, before, memory=memory, stopping=Alarm(looks))
        assert ring.sets(rows, 0.1, 5, ranks, memory=memory) == expected


@pytest.mark.parametrize("ranks", RANKS)
def test_what_is_saved_is_not_joined_again(ring, made, monkeypatch, ranks):
    rows = made.clustered(np.random.default_rng(9), 60, 8, 0.3, centres=6)
    monkeypatch.setattr(module, "SAVE_FLOPS", 0)
    monkeypatch.setattr(module, "SAVES", 10**9)
    memory, tiles = ring.Memory(), []
    plain = module.tile
    monkeypatch.setattr(module, "tile", lambda *given: (tiles.append(1), plain(*given)))
    expected = ring.sets(rows, 0.1, 5, 3, memory=memory)
    assert len(tiles) == 12 * 13 // 2
    del memory.saved[max(memory.saved)]  # the last part was never written
    tiles.clear()
    assert ring.sets(rows, 0.1, 5, ranks, memory=memory) == expected
    assert 0 < len(tiles) < 20
    tiles.clear()
    assert ring.sets(rows, 0.1, 5, ranks, memory=memory) == expected
    assert tiles == []


def test_the_ledger_of_another_join_is_passed_over(ring, made, monkeypatch):
    rows = made.clustered(np.random.default_rng(9), 60, 8, 0.3, centres=6)
    monkeypatch.setattr(module, "SAVE_FLOPS", 0)
    memory = ring.Memory()
    ring.sets(rows, 0.5, 5, memory=memory)
    ring.sets(rows, 0.1, 7, memory=memory)
    assert ring.sets(rows, 0.1, 5, memory=memory) == ring.sets(rows, 0.1, 5)


def test_a_stop_while_survivors_are_chosen_reaches_all_ranks(ring, made):
    rows = made.clustered(np.random.default_rng(9), 60, 8, 0.3, centres=6)
    ids, roots = made.some_ids(np.random.default_rng(10), 60), np.arange(60, dtype=np.int32) // 10 * 10

    def work(world):
        share = Share(world, 60, 5)
        own = slice(share.begin, share.end)
        with pytest.raises(Stopped):
            survivors(share, roots, ids[own], squares(rows[own]), rows[own], stopping=lambda: world.rank == 1)
        return True

    assert ring.together(3, work) == [True] * 3


@pytest.mark.parametrize("looks", [0, 5, 25])
def test_one_rank_that_is_asked_stops_all(ring, made, looks):
    rows = made.clustered(np.random.default_rng(9), 60, 8, 0.3, centres=6)
    alarm = Alarm(looks)

    def work(world):
        share = Share(world, 60, 5)
        ledger = ledgers.Ledger(share, 8, 0.1, ring.Memory)
        own = rows[share.begin : share.end]
        with pytest.raises(Stopped):
            module.components(share, own, 0.1, ledger, stopping=alarm if world.rank == 2 else lambda: False)
        return True

    assert ring.together(4, work) == [True] * 4
