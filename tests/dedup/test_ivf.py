from __future__ import annotations

import builtins
import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.config.config import check
from toolkit.config.embed import Dedup
from toolkit.data import features
from toolkit.data.stage import Stopped
from toolkit.data.world import ALONE
from toolkit.dedup import ivf as module
from toolkit.dedup.exact import squares
from toolkit.dedup.forest import Forest
from toolkit.dedup.ivf import ASKED, LEARNT, Nearest, Own, components, learn, measure, uniform, within
from toolkit.dedup.join import Slab
from toolkit.dedup.share import Share
from toolkit.errors import UserError
from toolkit.report.display import stage_lines
from toolkit.run.plain import run_stage

faiss = pytest.importorskip("faiss")

SHIPPED = Dedup().probes
RANKS = (1, 2, 3)


@pytest.fixture(scope="session")
def find(ring):
    """Find sets by lists; all ranks must agree on them and on what was measured. The last rows are `earlier` ones."""

    def sets(
        rows: np.ndarray,
        distance: float = 0.1,
        *,
        ranks: int = 1,
        block: int = 2048,
        lists: int | None = None,
        probes: int = SHIPPED,
        earlier: int = 0,
        **options: Any,
    ) -> tuple[list[int], dict[str, int]]:
        new = len(rows) - earlier

        def work(world: Any) -> tuple[list[int], dict[str, int]]:
            share, told = Share(world, new, block, earlier, block + 1), Counter[str]()
            own = rows[share.numbers]
            chosen = {"lists": lists, "probes": probes, "tally": lambda key, n: told.update({key: n})}
            forest, lengths = components(share, own, distance, **chosen, **options)
            np.testing.assert_array_equal(lengths, squares(own))
            return [root if root < new else row for row, root in enumerate(forest.parent.tolist())], dict(told)

        found = ring.together(ranks, work)
        assert all(one == found[0] for one in found)
        return found[0]

    return sets


def planted(made, rng: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    """Scattered unit rows, the last tenth of them noisy copies of the first: cosines of 0.86 to 0.96."""
    copies = rows // 10
    values = rng.standard_normal((rows, dim))
    values[rows - copies :] = values[:copies] + rng.uniform(0.3, 0.6, (copies, 1)) * rng.standard_normal((copies, dim))
    return made.unit(values)


def finer(fine: list[int], coarse: list[int]) -> bool:
    """Whether every set of the one lies within a set of the other."""
    return all(coarse[i] == coarse[root] for i, root in enumerate(fine))


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("probes", [1, 3])
def test_no_edge_is_invented(find, ring, made, ranks, probes):
    rng = np.random.default_rng(ranks)
    rows = np.concatenate([made.clustered(rng, 150, 16, 0.33, centres=8), made.scattered(rng, 50, 16)])
    exact = ring.sets(rows, 0.1)
    found, _ = find(rows, ranks=ranks, block=7, lists=20, probes=probes)
    assert finer(found, exact)
    assert len(set(found)) < 200  # and something is found


@given(st.integers(0, 10**6), st.sampled_from(RANKS), st.integers(1, 5), st.sampled_from([1e-9, 0.01, 0.1, 0.5, 1.5]))
@settings(max_examples=30)
def test_sets_are_exact_where_all_lists_are_searched(find, reference, made, seed, ranks, block, distance):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(-2, 3, (rng.integers(0, 24), 4)) / 4
    assert find(coarse.astype(np.float16), distance, ranks=ranks, block=block, probes=10**6)[0] == reference.sets(
        coarse.astype(np.float16), distance
    )


@given(
    st.integers(0, 10**6),
    st.integers(0, 12),
    st.integers(0, 12),
    st.sampled_from(RANKS),
    st.sampled_from([1e-9, 0.1, 0.5]),
)
@settings(max_examples=30)
def test_earlier_rows_are_compared_with_the_others_alone(find, reference, seed, new, earlier, ranks, distance):
    rows = (np.random.default_rng(seed).integers(-2, 3, (new + earlier, 4)) / 4).astype(np.float16)
    found, _ = find(rows, distance, ranks=ranks, block=3, probes=10**6, earlier=earlier)
    assert found[:new] == reference.sets(rows, distance, earlier)[:new]


@pytest.mark.parametrize("ranks", RANKS)
def test_recall_of_new_rows_counts_what_they_have_among_earlier_ones(find, made, ranks):
    rows = planted(made, np.random.default_rng(5), 500, 32)  # the copies, and more, are earlier ones
    _, told = find(rows, ranks=ranks, block=64, earlier=100)
    assert told["recall.queries"] == 400
    assert told["recall.edges"] > 10
    assert told["recall.found"] == told["recall.edges"]


@pytest.mark.parametrize("ranks", RANKS)
def test_the_shipped_probes_find_99_percent_of_planted_copies(find, ring, made, ranks):
    rows = planted(made, np.random.default_rng(5), 3000, 64)
    exact = np.array(ring.sets(rows, 0.1))
    found = np.array(find(rows, ranks=ranks, block=256)[0])
    copies = np.flatnonzero(exact != np.arange(3000))
    assert len(copies) > 100
    assert np.mean(found[copies] == exact[copies]) >= 0.99


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("sample", [40, 10**9])
def test_recall_is_that_of_brute_force(find, reference, made, monkeypatch, ranks, sample):
    monkeypatch.setattr(module, "ASKED_ROWS", sample)
    monkeypatch.setattr(module, "TILE_ROWS", 16)
    rows = made.clustered(np.random.default_rng(8), 120, 8, 0.4, centres=10)
    rows[50], rows[60] = 0, np.nan
    found, told = find(rows, ranks=ranks, block=9, lists=30, probes=1)
    points = reference.whole(np.where(np.isfinite(rows), rows, 0))
    valid = [i for i in range(120) if any(points[i])]
    asked = [i for i in valid if uniform(np.array([i]), ASKED) < sample / len(valid)]  # by row number alone
    assert 30 < len(asked) < 50 or len(asked) == len(valid)
    edges = [(i, j) for i in asked for j in valid if i != j and reference.distance(points[i], points[j]) < 0.1]
    whole = sum(found[i] == found[j] for i, j in edges)
    assert told == {
        "recall.queries": len(asked),
        "recall.edges": len(edges),
        "recall.found": whole,
        "search.repeated": 0,
    }
    assert 0 < whole < len(edges)


def test_rows_learnt_from_and_rows_asked_are_drawn_apart_from_each_other_and_from_rows_nearby():
    rows = 10**5
    learnt, asked = (uniform(np.arange(rows), seed) < 0.25 for seed in (LEARNT, ASKED))
    both = [learnt & asked, *(asked[:-gap] & asked[gap:] for gap in (1, 2, 1000, 90_000))]
    assert all(abs(np.mean(drawn) - 0.25) < 0.01 for drawn in (learnt, asked))
    assert all(abs(np.mean(together) - 0.25**2) < 0.01 for together in both)


@pytest.mark.parametrize("ranks", RANKS)
def test_a_chain_over_all_ranks_is_one_set(find, made, ranks):
    rows = made.chained(150, 8, angle=0.04)[np.random.default_rng(1).permutation(150)]
    assert set(find(rows, 0.001, ranks=ranks, block=3)[0]) == {0}


@pytest.mark.parametrize("ranks", RANKS)
def test_equal_rows_are_found_in_lists_far_apart_too(find, made, ranks):
    rows = made.scattered(np.random.default_rng(2), 5, 8)[[0, 1, 0, 2, 0, 3, 4, 1]]
    assert find(rows, 1e-9, ranks=ranks, block=1, lists=8, probes=1)[0] == [0, 1, 0, 3, 0, 5, 6, 1]


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_rows_many_ranks_and_more_lists_than_rows(find, made, ranks, count):
    rows = made.scattered(np.random.default_rng(3), count, 8)
    told: list[int] = []
    assert find(rows, ranks=ranks, block=1, lists=100, advance=told.append)[0] == list(range(count))
    assert sum(told) == count * ranks  # each rank tells; only rank 0 is shown


def test_rows_without_direction_have_no_edge(find):
    rows = np.zeros((5, 4), dtype=np.float16)
    rows[3, 0], rows[4, 1] = np.inf, np.nan
    assert find(rows) == (list(range(5)), {"recall.queries": 0, "recall.edges": 0, "recall.found": 0})


def test_the_same_ranks_give_the_same_sets(find, made):
    rows = planted(made, np.random.default_rng(6), 600, 16)
    assert find(rows, ranks=2, block=50, lists=60, probes=1) == find(rows, ranks=2, block=50, lists=60, probes=1)


@pytest.fixture
def shard(made) -> tuple[Any, np.ndarray, np.ndarray]:
    """An index of rows of which 300 are alike, its rows, and the lists that each asks: all."""
    rng = np.random.default_rng(4)
    rows = np.concatenate([made.clustered(rng, 300, 8, 0.05, centres=1), made.scattered(rng, 100, 8)])
    own = Own(Share(ALONE, 400, 2048), Slab(np.arange(400), rows, squares(rows)), np.ones(400, dtype=np.bool_), 0.1)
    index = module.Lists(own, learn(own, 5), 5, np.float32(0.9))._index
    return index, own.slab.unit(), np.tile(np.arange(5), (400, 1))


@pytest.mark.parametrize("first", [1, 3, 16, 512])
def test_neighbours_are_doubled_until_all_of_a_big_group_are_found(shard, monkeypatch, first):
    monkeypatch.setattr(module, "FIRST_NEIGHBOURS", first)
    index, unit, cells = shard
    nearest = Nearest(index, 10**6, np.float32(0.9))
    found = {(i, j) for rows, numbers, _ in nearest.find(unit, cells) for i, j in zip(rows, numbers, strict=True)}
    assert found == set(zip(*within(index, unit, cells, np.float32(0.9))[:2], strict=True))
    assert len([1 for i, j in found if i == 0 and j < 300]) == 300
    assert (nearest.repeated > 0) == (first < 512)
    assert not len(nearest.left)


def test_what_has_more_neighbours_than_the_index_can_name_is_left_whole(shard):
    index, unit, cells = shard
    nearest = Nearest(index, 100, np.float32(0.9))
    given = {int(i) for rows, _, _ in nearest.find(unit, cells) for i in rows}
    assert nearest.left.tolist() == list(range(300))
    assert given == set(range(300, 400))
    assert nearest.repeated == 3 * 300  # for 32, 64 and 100 neighbours


@pytest.mark.parametrize("most", [20, 2048])
def test_sets_are_the_same_by_neighbours_as_by_range(find, made, monkeypatch, most):
    """As on a GPU, with the same index in its place."""
    rows = np.concatenate(
        [made.clustered(np.random.default_rng(seed), 90, 8, 0.3, centres=centres) for seed, centres in ((1, 1), (2, 9))]
    )
    plain, told = find(rows, lists=12, probes=2, ranks=2, block=20)
    assert told["search.repeated"] == 0
    monkeypatch.setattr(module, "_on_gpu", lambda index, rank: index)
    monkeypatch.setattr(module, "GPU_NEIGHBOURS", most)
    monkeypatch.setattr(module, "CANDIDATES", 100)
    found, told = find(rows, lists=12, probes=2, ranks=2, block=20)
    assert found == plain
    assert told["search.repeated"] > 0


@given(st.lists(st.integers(0, 300), max_size=20))
def test_rows_are_cut_by_what_they_are_compared_with(candidates):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CANDIDATES", 100)
        parts = list(module._parts(np.array(candidates, dtype=np.int64)))
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(len(candidates)))
    assert all(
        sum(candidates[part]) <= 200 or part.stop - part.start == 1 or max(candidates[part]) > 100 for part in parts
    )


@pytest.mark.parametrize("looks", [0, 3, 6, 8, 12])
def test_one_rank_that_is_asked_to_stop_stops_all(ring, made, looks):
    rows = made.scattered(np.random.default_rng(9), 60, 8)
    asked = iter(range(10**6))

    def work(world: Any) -> bool:
        share = Share(world, 60, 5)
        stopping = (lambda: next(asked) >= looks) if world.rank == 2 else lambda: False
        with pytest.raises(Stopped):
            components(share, rows[share.begin : share.end], 0.1, lists=4, probes=2, stopping=stopping)
        return True

    assert ring.together(3, work) == [True] * 3


def test_a_run_without_edges_says_that_it_found_none(made):
    rows = np.eye(4, dtype=np.float16)
    own = Own(Share(ALONE, 4, 2), Slab(np.arange(4), rows, squares(rows)), np.ones(4, dtype=np.bool_), 0.1)
    assert measure(own, Forest(4)) == {"queries": 4, "edges": 0, "found": 0}


def test_where_faiss_is_missing_the_user_is_told(find, made, monkeypatch):
    plain = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "faiss":
            raise ImportError("No module named 'faiss'")
        return plain(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install danqing-toolkit\[faiss\].*backend to exact"):
        find(made.scattered(np.random.default_rng(1), 3, 8))


def write(path: Path, rows: np.ndarray, ids: np.ndarray) -> Path:
    sink = io.BytesIO()
    features.write(sink, ids=ids, image=[rows], dim=rows.shape[1])
    path.write_bytes(sink.getvalue())
    return path


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_stage_writes_the_sets_and_what_was_measured(ring, made, tmp_path, ranks):
    rng = np.random.default_rng(7)
    rows, ids = planted(made, rng, 300, 32), made.some_ids(rng, 300)
    paths = [
        write(tmp_path / f"{i}.h5", rows[part], ids[part]) for i, part in enumerate((slice(0, 99), slice(99, 300)))
    ]

    def run(backend: str, ranks: int) -> tuple[Any, Any]:
        config = check({"input": {"kind": "table", "paths": ["-"]}, "dedup": {"backend": backend}}, "test")
        output = tmp_path / f"{backend}-{ranks}.parquet"
        tasks = ring.together(ranks, lambda world: run_stage("dedup", paths, output, config, world))
        return pq.read_table(output), tasks[0]

    exact, task = run("exact", 1)
    assert not task.books.tallies
    found, task = run("faiss", ranks)
    told, said = task.books.tallies, [line for line in stage_lines(task) if "recall" in line]
    assert found.equals(exact)
    assert told["recall.queries"] == 300
    assert told["recall.found"] == told["recall.edges"] > 0
    assert said[0].startswith("recall of dedup: 1.0000, measured: of the ")
