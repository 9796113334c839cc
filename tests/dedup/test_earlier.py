"""Rows that are held against earlier ones, which are never held against each other and always stay."""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import combinations_with_replacement, product
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from toolkit.config.config import check
from toolkit.data import features
from toolkit.data.ids import column
from toolkit.data.stage import Stopped
from toolkit.dedup import ledger as ledgers
from toolkit.dedup import ring as module
from toolkit.dedup import stage
from toolkit.dedup import survivors as deciding
from toolkit.dedup.exact import squares
from toolkit.dedup.ring import falls, laps
from toolkit.dedup.share import Share
from toolkit.dedup.twins import twins
from toolkit.errors import UserError, WorkError
from toolkit.run.plain import run_stage

from .test_dedup_stage import write

RANKS = (1, 2, 3, 4, 7)
COARSE = st.sampled_from([-1.0, -0.5, 0.0, 2.0**-24, 0.25, 0.5, 1.0])


class Place:
    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 7), st.integers(1, 7), st.integers(1, 9))
def test_all_rows_are_held_once_and_found_where_they_are_said_to_be(rows, earlier, block, other, ranks):
    shares = [Share(Place(rank, ranks), rows, block, earlier, other) for rank in range(ranks)]
    held = [share.numbers for share in shares]
    assert sorted(np.concatenate(held).tolist()) == list(range(rows + earlier))
    for rank, (share, numbers) in enumerate(zip(shares, held, strict=True)):
        assert share.owners(numbers).tolist() == [rank] * len(numbers)
        assert share.local(numbers).tolist() == list(range(len(numbers)))
        parts = [share.part(one) for one in (*share.held(rank), *share.kept(rank))]
        assert [n for first, at in parts for n in range(first, first + at.stop - at.start)] == numbers.tolist()
        assert [i for _, at in parts for i in range(at.start, at.stop)] == list(range(len(numbers)))


@pytest.mark.parametrize("ranks", range(1, 10))
@pytest.mark.parametrize(("blocks", "earlier"), [(0, 3), (1, 1), (5, 2), (12, 16), (3, 0)])
def test_every_pair_of_blocks_that_counts_meets_once(ranks, blocks, earlier):
    """The schedule alone, as the ranks walk it."""
    shares = [Share(Place(rank, ranks), blocks * 10, 10, earlier * 7, 7) for rank in range(ranks)]
    most, met = max(len(share.held(r)) for r, share in enumerate(shares)), []
    for rank, share in enumerate(shares):
        own, kept = share.held(rank), share.kept(rank)
        met += [*combinations_with_replacement(own, 2), *product(own, kept)]
        for lap, step in laps(most, ranks, whole=earlier > 0):
            for visitor in share.held((rank + step) % ranks)[lap : lap + 1]:
                near = [one for one in own if 2 * step < ranks or (2 * step == ranks and falls(one, visitor))]
                met += [tuple(sorted((one, visitor))) for one in (*near, *kept)]
    both = [*combinations_with_replacement(range(blocks), 2), *product(range(blocks), range(blocks, blocks + earlier))]
    assert sorted(met) == sorted(both)


@given(
    hnp.arrays(np.float16, st.tuples(st.integers(0, 24), st.integers(1, 5)), elements=COARSE),
    st.floats(0, 1),
    st.sampled_from([1e-12, 0.1, 0.5, 1.0, 1.5]),
    st.sampled_from(RANKS),
    st.integers(1, 5),
)
def test_sets_are_those_of_the_definition(ring, reference, rows, share, distance, ranks, block):
    earlier = round(share * len(rows))
    assert ring.sets(rows, distance, block, ranks, block, earlier=earlier) == reference.sets(rows, distance, earlier)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("earlier", [0, 1, 20, 39, 40])
def test_clusters_around_the_limit(ring, reference, made, ranks, earlier):
    rng = np.random.default_rng(earlier)
    rows = made.clustered(rng, 40, 16, 0.33, centres=6)
    rows[39], rows[30] = rows[3], rows[31]  # twins: of a new and an earlier row, and of two earlier ones
    assert ring.sets(rows, 0.1, 3, ranks, earlier=earlier) == reference.sets(rows, 0.1, earlier)


@given(hnp.arrays(np.float16, st.tuples(st.integers(0, 12), st.just(1)), elements=COARSE), st.sampled_from(RANKS))
def test_the_first_of_equal_rows_is_the_smallest_number(ring, rows, ranks):
    earlier, data = len(rows) // 2, [row.tobytes() for row in rows]

    def work(world):
        share = Share(world, len(rows) - earlier, 2, earlier, 1)
        return dict(zip(share.numbers.tolist(), twins(share, rows[share.numbers]).tolist(), strict=True))

    found = {number: first for part in ring.together(ranks, work) for number, first in part.items()}
    assert [found[number] for number in range(len(rows))] == [data.index(row) for row in data]


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("rows", [0, 10, 23])
def test_earlier_blocks_are_never_joined_with_each_other(ring, made, monkeypatch, ranks, rows):
    monkeypatch.setattr(module, "SAVE_FLOPS", 0)
    data, seen, plain = made.scattered(np.random.default_rng(2), 60, 8), [], module.tile

    def tile(screen, left, right, *rest):
        seen.append((left.slab.numbers[0], right.slab.numbers[0]))
        plain(screen, left, right, *rest)

    monkeypatch.setattr(module, "tile", tile)
    memory = ring.Memory()
    ring.sets(data, 0.1, 5, ranks, earlier=60 - rows, memory=memory)
    blocks, earlier = -(-rows // 5), -(-(60 - rows) // 6)
    assert len(seen) == blocks * (blocks + 1) // 2 + blocks * earlier
    assert all(min(pair) < rows for pair in seen)
    seen.clear()
    ring.sets(data, 0.1, 5, 3, earlier=60 - rows, memory=memory)
    assert len(seen) <= blocks  # what was kept: all but what came after the last turn


@given(
    st.sampled_from((1, 2, 3)),
    st.lists(st.tuples(st.sampled_from((1, 2, 3)), st.integers(0, 60)), max_size=3),
)
@settings(max_examples=10)
def test_a_join_that_is_stopped_again_and_again_gives_the_same_sets(ring, made, ranks, stops):
    rows = made.clustered(np.random.default_rng(9), 50, 8, 0.3, centres=6)
    expected, memory = ring.sets(rows, 0.1, 5, earlier=30), ring.Memory()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledgers, "SAVE_FLOPS", 0)
        patch.setattr(module, "SAVE_FLOPS", 0)
        for before, looks in stops:
            left = iter(range(looks))
            with suppress(Stopped):
                ring.sets(
                    rows, 0.1, 5, before, earlier=30, memory=memory, stopping=lambda left=left: next(left, None) is None
                )
        assert ring.sets(rows, 0.1, 5, ranks, earlier=30, memory=memory) == expected


def test_the_ledger_of_other_earlier_rows_is_passed_over(ring, made, monkeypatch):
    monkeypatch.setattr(module, "SAVE_FLOPS", 0)
    rows, memory = made.clustered(np.random.default_rng(9), 60, 8, 0.3, centres=6), ring.Memory()
    ring.sets(rows, 0.5, 5, memory=memory, earlier=20)
    ring.sets(rows[:59], 0.1, 5, memory=memory, earlier=19)
    assert ring.sets(rows, 0.1, 5, memory=memory, earlier=20) == ring.sets(rows, 0.1, 5, earlier=20)


@pytest.mark.parametrize("ranks", RANKS)
def test_progress_adds_up_to_the_rows_of_the_unit(ring, made, ranks):
    told: list[int] = []
    rows = made.clustered(np.random.default_rng(4), 61, 8, 0.3)
    ring.sets(rows, 0.1, 4, ranks, earlier=40, advance=told.append)
    assert sum(told) == 21 * ranks
    assert min(told) > 0


@given(
    st.data(),
    st.sampled_from(["centroid", "first"]),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 4]),
    st.sampled_from([2, 4096]),
)
def test_survivors_are_those_of_the_definition(reference, ring, data, keep, ranks, block, window):
    rows = data.draw(hnp.arrays(np.float16, st.tuples(st.integers(0, 12), st.integers(1, 4)), elements=COARSE))
    labels = data.draw(st.lists(st.integers(0, 4), min_size=len(rows), max_size=len(rows)))
    root = [labels.index(label) for label in labels]
    ids = data.draw(hnp.arrays(np.uint8, (len(rows), 16), elements=st.integers(0, 3)))
    earlier = data.draw(st.integers(0, len(rows)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deciding, "WINDOW_ROWS", window)
        answer = ring.survivors(rows, root, ids, squares(rows), keep, ranks=ranks, block=block, earlier=earlier)
    found = zip(answer.row.tolist(), answer.size.tolist(), answer.distance.tolist(), strict=True)
    assert list(found) == reference.choose(rows, root, [i.tobytes() for i in ids], keep, earlier)
    assert answer.id.tolist() == ids[answer.row].tolist()


# The stages on plain files


@pytest.fixture
def crawls(tmp_path, made):
    """A new crawl in two files, an old one in three: new rows like old ones (0, 4), like each other (1, 2), alone."""
    rng = np.random.default_rng(11)
    base = made.scattered(rng, 5, 32).astype(np.float64)
    new = made.unit(base[[0, 1, 1, 2, 0, 3]] + 0.02 * rng.standard_normal((6, 32)))
    old = made.unit(base[[0, 4, 0, 4]] + 0.02 * rng.standard_normal((4, 32)))
    ids = np.zeros((10, 16), dtype=np.uint8)
    ids[:, 0] = [50, 40, 30, 20, 10, 60, 99, 98, 97, 10]
    paths = [write(tmp_path / f"new-{at}.h5", new[at : at + 4], ids[:6][at : at + 4]) for at in (0, 4)]
    for number, part in enumerate((slice(6, 7), slice(7, 7), slice(7, 10))):
        write(tmp_path / f"old-{number}.h5", np.concatenate([new, old])[part], ids[part])
    return paths, column(ids).to_pylist()


def run(folder: Path, inputs: list[Path], *earlier: str, stage: str = "merge", **options) -> list[dict]:
    section = options | {"earlier": [str(folder / one) for one in earlier]}
    output = folder / f"{stage}.parquet"
    run_stage(stage, inputs, output, check({"input": {"kind": "table", "paths": ["-"]}, "dedup": section}, "test"))
    found = pq.read_table(output).to_pylist()
    output.unlink()
    return found


@pytest.mark.parametrize("step", ["dedup", "merge"])
def test_earlier_rows_win_and_only_new_rows_are_in_the_table(crawls, tmp_path, step):
    paths, ids = crawls
    found = run(tmp_path, paths, "old-*.h5", stage=step)
    assert [row["id"] for row in found] == ids[:6]
    assert [row["set"] for row in found] == [ids[i] for i in (8, 2, 2, 3, 8, 5)]  # 97 is the smallest earlier id there
    assert [row["size"] for row in found] == [4, 2, 2, 1, 4, 1]
    own = {"dedup": "dedup.batch", "merge": "merge.global"}[step]
    assert [row["dropped"] for row in found] == ["merge.earlier", own, None, None, "merge.earlier", None]


def test_a_crawl_against_itself_is_dropped_whole_but_for_what_is_like_nothing(crawls, tmp_path, made):
    rows = made.scattered(np.random.default_rng(3), 5, 8)
    rows[4] = 0
    path = write(tmp_path / "again.h5", rows, made.some_ids(np.random.default_rng(4), 5))
    found = run(tmp_path, [path], "again.h5")
    assert [row["dropped"] for row in found] == ["merge.earlier"] * 4 + ["embed.invalid"]
    assert [row["set"] for row in found] == [row["id"] for row in found]  # equal ids: the set has the earlier one's
    assert [row["size"] for row in found] == [2, 2, 2, 2, 1]


def test_nothing_earlier_is_as_without(crawls, tmp_path):
    paths, _ = crawls
    assert run(tmp_path, paths, "old-1.h5") == run(tmp_path, paths)
    assert [row["dropped"] for row in run(tmp_path, paths, "old-1.h5")].count(None) == 4


def test_a_crawl_without_rows(tmp_path, crawls):
    empty = write(tmp_path / "empty.h5", np.empty((0, 32), np.float16), np.empty((0, 16), np.uint8))
    assert run(tmp_path, [empty], "old-0.h5") == []


def test_two_earlier_rows_that_a_new_one_links_both_stay(tmp_path, made):
    chain = made.chained(3, 8, angle=0.1)
    ids = made.some_ids(np.random.default_rng(4), 3)
    path = write(tmp_path / "new.h5", chain[1:2], ids[1:2])
    write(tmp_path / "old.h5", chain[[0, 2]], ids[[0, 2]])
    (row,) = run(tmp_path, [path], "old.h5", distance=0.01)
    smallest = min(column(ids[[0, 2]]).to_pylist())
    assert (row["dropped"], row["set"], row["size"]) == ("merge.earlier", smallest, 3)
    assert row["distance"] < 1e-4  # to the middle of all three


@pytest.mark.parametrize("keep", [{}, {"keep": "first"}, {"distance": 1e-9}])
def test_any_number_of_ranks_writes_the_same(ring, crawls, tmp_path, monkeypatch, keep):
    monkeypatch.setattr(stage, "block_rows", lambda rows: 2)
    paths, _ = crawls
    tree = {"input": {"kind": "table", "paths": ["-"]}, "dedup": keep | {"earlier": [str(tmp_path / "old-*.h5")]}}
    made = set()
    for ranks in RANKS:
        output = tmp_path / f"{ranks}.parquet"
        ring.together(ranks, lambda world, output=output: run_stage("merge", paths, output, check(tree, "test"), world))
        made.add(output.read_bytes())
    assert len(made) == 1


def test_features_of_another_encoder_are_refused(crawls, tmp_path, made):
    paths, _ = crawls
    rng = np.random.default_rng(5)
    write(tmp_path / "wide.h5", made.scattered(rng, 2, 64), made.some_ids(rng, 2))
    with pytest.raises(UserError, match=r"wide.h5, which .* names, have the dim 64, those of .*new-0.h5 32"):
        run(tmp_path, paths, "wide.h5")
    for name, weights in (("one", "aa"), ("two", "bb")):
        with (tmp_path / f"{name}.h5").open("w+b") as sink:
            said = {"encoder": "clip", "weights": weights}
            rows, ids = made.scattered(rng, 2, 32), made.some_ids(rng, 2)
            features.write(sink, ids=ids, image=[rows], dim=32, attributes=said)
    with pytest.raises(UserError, match=r"two.h5, which .* names, have the weights bb, those of .*one.h5 aa"):
        run(tmp_path, [tmp_path / "one.h5"], "two.h5")
    assert len(run(tmp_path, paths, "two.h5")) == 6  # the crawl's own files do not say
    with pytest.raises(UserError, match=r"two.h5 have the weights bb, those of .*one.h5 aa"):
        run(tmp_path, [paths[0], tmp_path / "one.h5", tmp_path / "two.h5"])
    with pytest.raises(UserError, match=r"(one|two).h5, which .* have the weights (aa|bb), those of .*(two|one).h5"):
        run(tmp_path, paths, "one.h5", "two.h5")


def test_what_is_no_run_and_no_file_of_features_is_refused(crawls, tmp_path):
    paths, _ = crawls
    with pytest.raises(UserError, match="matches nothing"):
        run(tmp_path, paths, "missing/*.h5")
    with pytest.raises(UserError, match="no run folder"):
        run(tmp_path, paths, ".")
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(WorkError, match=r"dedup.earlier names .*text.h5.*not HDF5"):
        run(tmp_path, paths, "text.h5")
    os.mkfifo(tmp_path / "pipe.h5")
    with pytest.raises(UserError, match=r"pipe.h5, which is neither a folder nor a file"):
        run(tmp_path, paths, "pipe*")


def test_a_scope_that_never_looks_at_earlier_rows_is_refused(tmp_path):
    with pytest.raises(UserError, match="scope: both or global"):
        run(tmp_path, [], "x.h5", scope="batch")
