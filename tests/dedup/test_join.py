from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from toolkit.dedup import join
from toolkit.dedup import ring as module_ring
from toolkit.dedup.exact import squares
from toolkit.dedup.join import Slab, flops, margin

BLOCKS = (1, 7, 64, 4096)
# Few values, so that equal rows, parallel rows and distances exactly at the limit are common.
COARSE = st.sampled_from([-1.0, -0.5, -(2.0**-24), 0.0, 2.0**-24, 0.25, 0.5, 1.0])
ANY = st.floats(width=16)


@pytest.fixture(scope="session")
def found(ring):
    """The sets that one rank finds, with blocks and tiles of that size."""
    return lambda rows, distance, block: ring.sets(rows, distance, block, tile=block)


def rows_of(values: st.SearchStrategy[float]) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(np.float16, st.tuples(st.integers(0, 14), st.integers(1, 5)), elements=values)


@given(rows_of(COARSE), st.sampled_from([1e-12, 0.1, 0.25, 0.5, 1.0, 1.5]), st.sampled_from([1, 3, 64]))
def test_sets_of_coarse_rows_are_those_of_the_definition(reference, found, rows, distance, block):
    assert found(rows, distance, block) == reference.sets(rows, distance)


@given(rows_of(ANY), st.floats(1e-6, 1.9), st.sampled_from([1, 3, 64]))
def test_sets_of_any_float16_rows_are_those_of_the_definition(reference, found, rows, distance, block):
    valid = np.isfinite(rows).all(axis=1)
    expected = reference.sets(np.where(valid[:, None], rows, 0).astype(np.float16), distance)
    assert found(rows, distance, block) == expected


@pytest.mark.parametrize("dim", [8, 64, 1024])
@pytest.mark.parametrize("spread", [0.25, 0.33, 0.4])
def test_clusters_around_the_limit(reference, found, made, dim, spread):
    rng = np.random.default_rng(dim)
    rows = np.concatenate([made.clustered(rng, 20, dim, spread), made.scattered(rng, 4, dim)])
    expected = reference.sets(rows, 0.1)
    assert [found(rows, 0.1, block) for block in BLOCKS] == [expected] * len(BLOCKS)


def test_a_chain_is_one_set_though_its_ends_are_far_apart(found, made):
    rows = made.chained(150, 8, angle=0.04)  # 1 - cos(0.04) = 0.0008, 1 - cos(0.08) = 0.0032
    assert [set(found(rows, 0.001, block)) for block in BLOCKS] == [{0}] * len(BLOCKS)
    assert found(rows[::2], 0.001, 7) == list(range(75))


@pytest.mark.parametrize("block", BLOCKS)
def test_equal_rows_are_one_set(found, made, block):
    rows = np.repeat(made.scattered(np.random.default_rng(3), 3, 16), 100, axis=0)
    assert found(rows, 1e-9, block) == [0] * 100 + [100] * 100 + [200] * 100


def test_equal_rows_cost_no_tile(ring, made, monkeypatch):
    """A placeholder image seen 50,000 times is joined once."""
    sizes = []
    monkeypatch.setattr(module_ring, "tile", lambda _, left, right, *rest: sizes.append(len(left) * len(right)))
    done = []
    rows = np.repeat(made.scattered(np.random.default_rng(3), 2, 8), 25_000, axis=0)
    ring.sets(rows, 0.1, 2048, advance=done.append)
    assert sizes == [1, 1, 1]  # each with itself, and the two
    assert sum(done) == 50_000


@given(st.integers(0, 2**32), st.sampled_from([2, 16, 64, 768]), st.booleans())
def test_a_limit_at_the_very_distance_of_a_pair_excludes_it(reference, found, seed, dim, long):
    """The hardest limits: the distance of a stored pair itself, and the next larger float64."""
    rng = np.random.default_rng(seed)
    scale = 300.0 if long else 1.0
    x = rng.standard_normal(dim)
    rows = np.stack([x, x + 0.4 * rng.standard_normal(dim)])
    rows = (scale * rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    limit = reference.distance(*reference.whole(rows))
    if 0 < limit < 2:
        assert found(rows, limit, 1) == [0, 1]
        assert found(rows, float(np.nextafter(limit, 3)), 64) == [0, 0]


@pytest.mark.parametrize("dim", [1, 8, 64, 1024])
def test_the_screen_stays_inside_its_proven_margin(reference, made, dim):
    rng = np.random.default_rng(dim)
    rows = np.concatenate([made.clustered(rng, 16, dim, 0.3), made.scattered(rng, 8, dim) * np.float16(100)])
    unit = Slab(np.arange(len(rows)), rows, squares(rows)).unit()
    screened = unit @ unit.T
    points = reference.whole(rows)
    exact = np.array([[1.0 - reference.distance(x, y) for y in points] for x in points])
    assert np.abs(screened - exact).max() <= margin(dim)


def test_rows_without_a_direction_have_no_edge(found):
    rows = np.ones((6, 4), dtype=np.float16)
    rows[1], rows[2], rows[3, 0], rows[4, 0] = 0, 0, np.nan, np.inf
    assert found(rows, 1.9, 64) == [0, 1, 2, 3, 4, 0]


def test_dense_tiles_in_small_pieces(found, made, monkeypatch):
    monkeypatch.setattr(join, "PIECE_PAIRS", 50)
    rows = made.clustered(np.random.default_rng(5), 120, 16, 0.05, centres=2)
    roots = found(rows, 0.1, 64)
    assert len(set(roots)) == 2
    assert roots == found(rows, 0.1, 4096)


def test_any_number_of_threads_gives_the_same_sets():
    program = (
        "import numpy as np; from toolkit.data.world import ALONE; from toolkit.dedup.ledger import Ledger;"
        "from toolkit.dedup.ring import components; from toolkit.dedup.share import Share;"
        "r = np.random.default_rng(1); x = r.standard_normal((30, 96))[r.integers(30, size=600)];"
        "x = (x + 0.33 * r.standard_normal(x.shape)).astype(np.float16);"
        "share = Share(ALONE, 600, 256); none = type('None', (), {'parts': lambda self: []});"
        "print(components(share, x, 0.1, Ledger(share, 96, 0.1, none))[0].roots().tolist())"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "OPENBLAS_NUM_THREADS": str(threads)},
            capture_output=True,
            check=True,
        ).stdout
        for threads in (1, 2, 3)
    }
    assert len(answers) == 1


def test_flops_are_half_of_all_pairs():
    assert flops(100, 768) == 100 * 100 // 2 * 2 * 768


def test_rows_too_long_for_the_proof_are_refused():
    with pytest.raises(ValueError, match="proven up to 131072"):
        margin(131073)
