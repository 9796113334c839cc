"""Every screen is held against the definition: it may name too many pairs, and never too few."""

from __future__ import annotations

import sys
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from toolkit.dedup import join
from toolkit.dedup import ring as module
from toolkit.dedup.exact import squares
from toolkit.dedup.forest import Forest
from toolkit.dedup.join import Slab, tile
from toolkit.dedup.screens import choice, cpu
from toolkit.dedup.screens.choice import SAMPLE_ROWS, Single, choose
from toolkit.dedup.screens.cpu import Cpu, floor_bits, lowered
from toolkit.dedup.screens.shadow import Directions, cast, principal

COARSE = st.sampled_from([-1.0, -0.5, -(2.0**-24), 0.0, 2.0**-24, 0.25, 0.5, 1.0])
FEW = st.tuples(st.integers(2, 20), st.integers(2, 6))
TYPES = st.sampled_from(list(cpu.BITS))


def slab_of(rows: np.ndarray) -> Slab:
    lengths = squares(rows)
    good = np.flatnonzero(lengths > 0)
    return Slab(good, rows[good], lengths[good])


@cache
def some_directions(seed: int, dim: int, count: int) -> Directions | None:
    """Principal directions of rows that have nothing to do with those of the test; none where `count` is 0."""
    if not count:
        return None
    other = np.random.default_rng(seed).standard_normal((3 * dim, dim)).astype(np.float32)
    return principal(other, min(count, dim))


@given(
    hnp.arrays(np.float16, FEW, elements=COARSE),
    st.sampled_from([1e-12, 0.1, 0.25, 0.5, 0.9, 1.0, 1.5]),
    st.integers(0, 4),
    TYPES,
    st.integers(0, 9),
)
def test_sets_with_any_screen_are_those_of_the_definition(ring, reference, rows, distance, count, dtype, seed):
    given_screen = Cpu(rows.shape[1], distance, some_directions(seed, rows.shape[1], count), dtype)
    assert ring.sets(rows, distance, screen=given_screen) == reference.sets(rows, distance)


@given(hnp.arrays(np.float16, FEW, elements=st.floats(width=16)), st.floats(1e-6, 0.99), st.integers(0, 4), TYPES)
@settings(max_examples=50)
def test_sets_of_any_float16_rows(ring, reference, rows, distance, count, dtype):
    valid = np.isfinite(rows).all(axis=1)
    given_screen = Cpu(rows.shape[1], distance, some_directions(1, rows.shape[1], count), dtype)
    expected = reference.sets(np.where(valid[:, None], rows, 0).astype(np.float16), distance)
    assert ring.sets(rows, distance, screen=given_screen) == expected


@pytest.mark.parametrize("dtype", cpu.BITS)
@pytest.mark.parametrize("dim", [8, 64, 1024])
@pytest.mark.parametrize("part", [0, 8, 4, 2])
def test_clusters_around_the_limit(ring, reference, made, dim, part, dtype):
    rng = np.random.default_rng(dim)
    rows = np.concatenate([made.clustered(rng, 20, dim, 0.33), made.scattered(rng, 4, dim)])
    given_screen = Cpu(dim, 0.1, some_directions(2, dim, dim // part if part else 0), dtype)
    assert ring.sets(rows, 0.1, screen=given_screen) == reference.sets(rows, 0.1)


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("block", [3, 64])
def test_every_rank_may_have_a_screen_of_its_own(ring, made, monkeypatch, ranks, block):
    """They agree on nothing but the length of a panel, by which they take turns together."""
    rows = made.clustered(np.random.default_rng(4), 90, 32, 0.3, centres=9)
    plain = ring.sets(rows, 0.1)
    numbers = iter(range(100))

    def chosen(*_):
        number = next(numbers)
        used = Cpu(32, 0.1, some_directions(number, 32, 8))
        used.panel_rows = 7 * (number + 1)
        return used

    monkeypatch.setattr(module, "choose", chosen)
    assert ring.sets(rows, 0.1, block, ranks) == plain
    assert next(numbers) == ranks


@given(st.integers(0, 2**32), st.sampled_from([8, 64, 768]), st.sampled_from([0, 2, 8]), TYPES)
def test_a_pair_just_inside_the_limit_is_a_suspect(reference, seed, dim, part, dtype):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(dim)
    rows = np.stack([x, x + 0.4 * rng.standard_normal(dim)])
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    limit = float(np.nextafter(reference.distance(*reference.whole(rows)), 3))
    if 0 < limit < 0.9:
        used = Cpu(dim, limit, some_directions(seed % 3, dim, dim // part if part else 0), dtype)
        slab = slab_of(rows)
        one, other = used.ready(slab[:1]), used.ready(slab[1:])
        assert [found.tolist() for found in used.suspects(one, other)] == [[0], [0]]
        both = used.ready(slab)
        assert [found.tolist() for found in used.suspects(both, both)] == [[0], [1]]


@given(st.integers(0, 2**32), st.sampled_from([4, 16, 96]), st.sampled_from([0, 1, 3, 16]), st.booleans())
def test_products_of_shadows_are_never_below_the_cosine(reference, seed, dim, count, near):
    """In exact arithmetic, but for the root in the cosine: float64 with room of 1e-12."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((6, dim))
    rows[3:] = rows[:3] + (0.05 if near else 0.5) * rows[3:]
    slab = slab_of(rows.astype(np.float16))
    shadows, error = cast(slab.unit(), some_directions(seed, dim, count))
    for i, x in enumerate(reference.whole(slab.rows)):
        for j, y in enumerate(reference.whole(slab.rows)):
            product = float(sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(*shadows[[i, j]], strict=True)))
            room = error * (np.linalg.norm(shadows[i].astype(float)) + np.linalg.norm(shadows[j].astype(float)))
            assert 1.0 - reference.distance(x, y) <= product + room + 1e-12


@given(st.integers(0, 2**32), st.sampled_from([16, 256, 1024]), st.sampled_from([0, 4, 16]), TYPES)
@settings(max_examples=40)
def test_the_limit_is_lowered_by_more_than_this_machine_s_product_is_off(seed, dim, part, dtype):
    """`lowered` promises: an edge's product, as the machine computes and rounds it, reaches the lowered score."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((24, dim))
    rows[12:] = rows[:12] + 0.3 * rows[12:]
    slab = slab_of((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16))
    used = Cpu(dim, 0.1, some_directions(seed % 3, dim, dim // part if part else 0), dtype)
    block = used.ready(slab)
    scores = torch.mm(block.ready, block.ready.T).view(cpu.BITS[dtype]).numpy()
    unit = slab.rows.astype(float) / np.sqrt(slab.squares)[:, None]
    cosines = unit @ unit.T
    for cosine, bits in zip(cosines[:12, 12:].ravel(), scores[:12, 12:].ravel(), strict=True):
        low = lowered(1.0 - cosine + 1e-8, used.values, block.error, block.error)
        assert low <= 0 or bits >= floor_bits(low, dtype)


def test_the_rest_of_a_row_is_in_its_shadow(made):
    """A row that the directions do not hold at all, and one that they hold wholly."""
    axes = Directions(np.eye(4, dtype=np.float32)[:2], 0.0)
    shadows, error = cast(np.eye(4, dtype=np.float32)[[0, 3]], axes)
    assert shadows[0, :2].tolist() == [1.0, 0.0]
    assert shadows[1].tolist() == pytest.approx([0.0, 0.0, 1.0])
    assert 0 < shadows[0, 2] < 0.01  # not nothing: the turned row may be off by the error
    assert error < 1e-5


def test_skewed_directions_are_covered():
    """P = sqrt(1 + E) times the first axis: opposite parts along it count (1 + E) times."""
    skew = 0.02
    axis = Directions(np.sqrt(np.float32(1 + skew)) * np.eye(8, dtype=np.float32)[:1], skew + 1e-6)
    unit = np.zeros((2, 8), np.float32)
    unit[:, 0], unit[:, 5] = (0.05**0.5, -(0.05**0.5)), 0.95**0.5
    shadows, error = cast(unit, axis)
    lengths = np.linalg.norm(shadows.astype(float), axis=1)
    product = float(shadows[0].astype(float) @ shadows[1])
    assert float(unit[0].astype(float) @ unit[1]) <= product + error * lengths.sum()


def test_skewed_directions_shorten_no_rest():
    axis = Directions(np.sqrt(np.float32(1.2)) * np.eye(8, dtype=np.float32)[:1], 0.2)
    unit = np.zeros((1, 8), np.float32)
    unit[0, 0], unit[0, 5] = 0.9, 0.19**0.5
    assert cast(unit, axis)[0][0, -1] >= 0.19**0.5


def test_long_sums_of_float32_are_covered():
    """Values of one sign, as many as the proof allows: here the order of a sum is seen."""
    dim = 1 << 17
    rng = np.random.default_rng(1)
    slab = slab_of((rng.uniform(1, 1.9, (4, 1)) + 1e-3 * rng.standard_normal((4, dim))).astype(np.float16))
    cosines = slab.rows.astype(float) @ slab.rows.T.astype(float)
    cosines /= np.sqrt(np.outer(slab.squares, slab.squares))
    used = Cpu(dim, 0.1, None, torch.float32)
    block = used.ready(slab)
    products = torch.mm(block.ready, block.ready.T).numpy()
    for cosine, product in zip(cosines.ravel(), products.ravel(), strict=True):
        assert product >= lowered(1.0 - cosine, dim, block.error, block.error)


@pytest.mark.parametrize("dtype", cpu.BITS)
@given(st.floats(1e-3, 1.0))
def test_rounding_carries_no_product_below_the_floor(dtype, score):
    """The next float32 and all above it are rounded to the floor or above."""
    above = torch.tensor([np.nextafter(np.float32(score), np.float32(2)), np.float32(score) * np.float32(1.001)])
    assert (above.to(dtype).view(cpu.BITS[dtype]) >= floor_bits(score, dtype)).all()


def test_a_dense_tile_is_cut_and_then_looked_at_as_a_whole(made, monkeypatch):
    """A screen with larger tiles, of which one corner holds more suspects than it names."""
    monkeypatch.setattr(join, "TILE_ROWS", 16)
    rows = made.scattered(np.random.default_rng(6), 100, 16)
    rows[:30] = made.clustered(np.random.default_rng(7), 30, 16, 0.02, centres=1)
    rows[90] = rows[40] * np.float16(0.5)
    slab = slab_of(rows)
    asked = []

    class Large(Cpu):
        def suspects(self, left, right):
            pairs = super().suspects(left, right)
            asked.append((len(left), len(right)))
            return pairs if pairs is None or len(pairs[0]) < 20 else None

    used = Large(16, 0.1)
    block = used.ready(slab)
    forest = Forest(100)
    tile(used, block, block, 0.1, forest)
    roots = forest.roots().tolist()
    assert roots[:30] == [0] * 30
    assert roots[90] == 40
    assert len(set(roots)) == 70
    assert asked[0] == (100, 100)
    assert 5 < len(asked) < 40


def test_without_suspects_named_tiles_are_looked_at_in_float32(ring, made, monkeypatch):
    """A limit that lies too low for the order of bits."""
    rows = made.clustered(np.random.default_rng(8), 40, 16, 0.3)
    used = Cpu(16, 1.2)
    block = used.ready(slab_of(rows))
    assert used.suspects(block, block) is None
    assert ring.sets(rows, 1.2, screen=used) == ring.sets(rows, 1.2)


@pytest.fixture
def amx(monkeypatch):
    """As if products in bfloat16 took a twelfth of the time: what is chosen must not depend on this machine."""
    monkeypatch.setattr(cpu, "slowness", lambda dtype, *_: 1 / 12 if dtype == torch.bfloat16 else 1.0)


def crawl(count: int, dim: int, rank: int = 48, same: float = 0.0) -> Slab:
    """Unit rows of low rank, with some noise; a share of them, all over, are files of one placeholder image."""
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((count, rank)) @ rng.standard_normal((rank, dim)) / rank**0.5
    rows += 0.3 * rng.standard_normal((count, dim))
    placeholder = rng.permutation(count)[: int(same * count)]
    rows[placeholder] = rng.standard_normal(dim) + 0.1 * rng.standard_normal((len(placeholder), dim))
    return slab_of((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16))


@pytest.mark.usefixtures("amx")
@pytest.mark.parametrize("same", [0.0, 0.05, 0.4])
def test_a_large_join_is_given_short_shadows_where_rows_have_much_in_common(same):
    """A near-equal set holds a thousandth of all pairs, or a sixth, and costs nothing once it is one."""
    used = choose(10**7, crawl(SAMPLE_ROWS, 256, same=same), 0.1)
    assert isinstance(used, Cpu)
    assert used.values < 128


@pytest.mark.usefixtures("amx")
def test_shadows_that_leave_nearly_all_pairs_open_are_not_taken():
    """All pairs lie just beyond the limit."""
    rng = np.random.default_rng(4)
    rows = rng.standard_normal(64) + 0.4 * rng.standard_normal((SAMPLE_ROWS, 64))
    used = choose(10**7, slab_of((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)), 0.06)
    assert isinstance(used, Single) or used.values == 64


@pytest.mark.usefixtures("amx")
@pytest.mark.parametrize("equal", [0, 1])
def test_a_sample_that_is_one_set_can_be_chosen_from(equal):
    rows = np.ones((SAMPLE_ROWS, 16)) + (1 - equal) * 0.01 * np.random.default_rng(1).standard_normal((SAMPLE_ROWS, 16))
    slab = slab_of(rows.astype(np.float16))
    used, forest = choose(10**7, slab, 0.1), Forest(SAMPLE_ROWS)
    block = used.ready(slab[:50])
    tile(used, block, block, 0.1, forest)
    assert set(forest.roots()[:50]) == {0}


@pytest.mark.usefixtures("amx")
@pytest.mark.parametrize(("rows", "sample"), [(1000, SAMPLE_ROWS), (10**8, SAMPLE_ROWS // 2 - 1)])
def test_small_joins_need_no_screen(rows, sample):
    assert isinstance(choose(rows, crawl(sample, 64), 0.1), Single)
    assert isinstance(choose(10**8, crawl(SAMPLE_ROWS // 2, 64), 0.1), Cpu)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_all_ranks_choose_by_rows_from_all_over_the_join(ring, made, monkeypatch, ranks):
    """So that a rank with few rows of a large join has a screen like the others."""
    rows, seen = made.scattered(np.random.default_rng(5), 90, 8), []
    monkeypatch.setattr(module, "SAMPLE_ROWS", 30)
    monkeypatch.setattr(module, "choose", lambda _, sample, *__: (seen.append(sample), Single(8))[1])
    ring.sets(rows, 0.01, 10, ranks)
    assert len(seen) == ranks
    for sample in seen:
        assert sample.numbers.tolist() == seen[0].numbers.tolist()
        assert len(sample) == 30
        assert (sample.numbers[0], sample.numbers[-1]) == (0, 89)
        assert (sample.rows == rows[sample.numbers]).all()


def test_without_torch_there_is_no_screen(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "toolkit.dedup.screens.cpu", raising=False)
    monkeypatch.delattr("toolkit.dedup.screens.cpu", raising=False)
    assert isinstance(choice.choose(10**7, crawl(SAMPLE_ROWS, 16), 0.1), Single)


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_set_that_is_one_already_costs_no_whole_tile(monkeypatch, share):
    """Placeholders all over: after the first tiles nothing about them is open, though every tile holds very many."""
    monkeypatch.setattr(join, "TILE_ROWS", 256)
    monkeypatch.setattr(join, "LISTED_PAIRS", 2048)
    monkeypatch.setattr(cpu, "LISTED_PAIRS", 2048)
    monkeypatch.setattr(join, "FEW_PAIRS", 64)
    whole, plain = [], join._whole
    monkeypatch.setattr(join, "_whole", lambda *given: (whole.append(1), plain(*given)))
    slab, used, forest = crawl(8 * 256, 64, same=share), Cpu(64, 0.1), Forest(8 * 256)
    blocks = [used.ready(part) for part in slab.cut(256)]
    for at, one in enumerate(blocks):
        for other in blocks[at:]:
            tile(used, one, other, 0.1, forest)
    assert len(whole) <= 12
    expected = Forest(8 * 256)
    ready = [Single(64).ready(part) for part in slab.cut(256)]
    for at, one in enumerate(ready):
        for other in ready[at:]:
            tile(Single(64), one, other, 0.1, expected)
    assert forest.roots().tolist() == expected.roots().tolist()


@pytest.mark.parametrize("mixed", [False, True])
def test_one_large_set_costs_little_once_it_is_one(ring, made, monkeypatch, mixed):
    """A placeholder image in many slightly different files, in one place of the crawl or all over it."""
    rng = np.random.default_rng(10)
    same = made.clustered(rng, 200, 32, 0.05, centres=1)
    rows = np.concatenate([same, made.scattered(rng, 200, 32)])
    if mixed:
        rows = rows[rng.permutation(400)]
    screened, decided = [], []
    plain = join.near
    monkeypatch.setattr(join, "near", lambda *given: (decided.append(len(given[2])), plain(*given))[1])

    class Counting(Cpu):
        def suspects(self, left, right):
            screened.append(1)
            return super().suspects(left, right)

    assert len(set(ring.sets(rows, 0.1, 20, tile=20, screen=Counting(32, 0.1)))) == 201
    assert sum(decided) < 200 * 199 / 2 / 4  # not every pair of the set
    if not mixed:
        assert len(screened) < 20 * 21 / 2 - 30  # most tiles of the set's ten blocks are never looked at
