"""The GPU's screen: by torch on the CPU, its kernels in Triton's interpreter, and all of it on a GPU if there is one.

On a machine with one: pytest tests/dedup/test_cuda.py
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from toolkit.dedup import join
from toolkit.dedup.exact import squares
from toolkit.dedup.join import Slab
from toolkit.dedup.node import seat
from toolkit.dedup.screens import cpu, cuda
from toolkit.dedup.screens.choice import choose
from toolkit.dedup.screens.cuda import Cuda, Products
from toolkit.dedup.screens.shadow import principal
from toolkit.errors import UserError

CPU = torch.device("cpu")
HERE = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
TRITON = importlib.util.find_spec("triton") is not None


def slab(rows: np.ndarray) -> Slab:
    return Slab(np.arange(len(rows)), rows, squares(rows))


def leaning(made, count: int, dim: int, seed: int = 0, power: float = 1.0) -> np.ndarray:
    """Rows that lie mostly in few directions, as those of real encoders do, a third of them noisy copies."""
    rng = np.random.default_rng(seed)
    weight = np.arange(1, dim + 1) ** -power
    values = rng.standard_normal((count, dim)) * weight
    copies = count // 3
    noise = rng.standard_normal((copies, dim)) * weight
    values[count - copies :] = values[:copies] + rng.uniform(0.2, 0.6, (copies, 1)) * noise
    return made.unit(values)


def edges(left: Slab, right: Slab, distance: float) -> set[tuple[int, int]]:
    """All pairs of two blocks, or of one with itself, that are edges."""
    i, j = (axis.ravel() for axis in np.indices((len(left), len(right))))
    if left is right:
        i, j = i[(upper := i < j)], j[upper]
    edge = join.near(left, right, i, j, distance)
    return set(zip(i[edge].tolist(), j[edge].tolist(), strict=True))


def named(screen: Cuda, left: Slab, right: Slab) -> set[tuple[int, int]]:
    one = screen.ready(left)
    pairs = screen.suspects(one, one if left is right else screen.ready(right))
    assert pairs is not None
    found = list(zip(pairs[0].tolist(), pairs[1].tolist(), strict=True))
    assert len(set(found)) == len(found)
    return set(found)


@pytest.fixture(params=HERE)
def device(request):
    return request.param


@pytest.fixture
def small(monkeypatch):
    """Pieces of a few rows, so that tiles have many, and a ragged last one."""
    monkeypatch.setattr(cuda, "PIECE_ROWS", 48)
    monkeypatch.setattr(Products.__init__, "__defaults__", (torch.bfloat16, 48))


@pytest.mark.parametrize("short", [False, True], ids=["whole rows", "shadows"])
@pytest.mark.parametrize("dim", [8, 65, 192])
def test_every_edge_is_named(made, device, small, dim, short):
    rows = leaning(made, 300, dim)
    whole = slab(rows)
    directions = principal(whole.unit(), dim // 3) if short else None
    screen = Cuda(dim, 0.05, directions, device)
    one, other = whole[:170], whole[170:]
    for left, right in ((one, other), (one, one), (other, other)):
        found = named(screen, left, right)
        assert found >= edges(left, right, 0.05)
        assert all(i < j for i, j in found) or left is not right


def test_what_shadows_let_through_is_held_against_whole_rows(made, device):
    rows = leaning(made, 400, 96)
    whole = slab(rows)
    screen = Cuda(96, 0.05, principal(whole.unit(), 20), device)
    block = screen.ready(whole)
    listed = screen.listed(block, block)
    exact = edges(whole, whole, 0.05)
    assert listed is not None
    assert len(listed) > 1.2 * len(exact)
    assert named(screen, whole, whole) == exact  # none of these lies within 1e-9 of the limit


def test_a_shadow_lies_as_near_as_its_bound_says(made, device):
    """x.y <= s.t + what `lowered` allows, for rounded shadows as the screen holds them."""
    rows = leaning(made, 200, 64)
    whole = slab(rows)
    screen = Cuda(64, 0.05, principal(whole.unit(), 15), device)
    block = screen.ready(whole)
    shadows = block.ready.rows.shadows.double().cpu().numpy()
    unit = rows.astype(np.float64) / np.sqrt(whole.squares)[:, None]
    allowed = 1.0 - cpu.lowered(0.0, screen.values, block.error, block.error)
    assert ((unit @ unit.T) <= shadows @ shadows.T + allowed).all()
    assert np.abs(np.linalg.norm(shadows, axis=1) - 1.0).max() <= 3 * block.error


def test_pairs_come_in_order(made, device, small):
    whole = slab(leaning(made, 200, 32))
    screen = Cuda(32, 0.1, device=device)
    block = screen.ready(whole)
    rows, columns = screen.suspects(block, block)
    code = rows * len(whole) + columns
    assert (np.diff(code) > 0).all()


def test_a_dense_tile_is_cut_and_loses_nothing(made, device, ring, monkeypatch):
    """All rows of two clusters are edges: more pairs than may be listed, down to the smallest tile."""
    monkeypatch.setattr(cuda, "CAPACITY", 500)
    rows = made.clustered(np.random.default_rng(1), 300, 32, spread=0.05, centres=2)
    screen = Cuda(32, 0.1, device=device)
    block = screen.ready(slab(rows))
    assert screen.suspects(block, block) is None
    roots = ring.sets(rows, 0.1, 4096, tile=64, screen=screen)
    assert roots == ring.sets(rows, 0.1, 4096)
    assert len(set(roots)) == 2


@pytest.mark.parametrize("distance", [0.9999, 1.0, 1.5])
def test_a_limit_of_hardly_a_positive_score_names_nothing(made, device, distance):
    screen = Cuda(8, distance, device=device)
    block = screen.ready(slab(made.scattered(np.random.default_rng(0), 9, 8)))
    screen.ahead(block, block)
    assert screen.suspects(block, block) is None


def test_a_tile_that_was_begun_ahead_has_the_same_pairs(made, device):
    whole = slab(leaning(made, 240, 48))
    screen = Cuda(48, 0.05, device=device)
    blocks = [screen.ready(part) for part in whole.cut(60)]
    tiles = [(one, other) for at, one in enumerate(blocks) for other in blocks[at:]]
    plain = [screen.suspects(*tile) for tile in tiles]
    begun = []
    screen.ahead(*tiles[0])
    for at, tile in enumerate(tiles):
        if at + 1 < len(tiles) and at != 3:
            screen.ahead(*tiles[at + 1])
        if at == 5:  # a tile that was cut asks for its pieces in between
            pieces = blocks[0].cut(30)
            assert screen.suspects(pieces[0], pieces[1]) is not None
        begun.append(screen.suspects(*tile))
    for one, other in zip(plain, begun, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("earlier", [0, 130])
@pytest.mark.parametrize("short", [False, True], ids=["whole rows", "shadows"])
def test_sets_are_those_without_a_screen(made, device, ring, small, short, earlier):
    rows = leaning(made, 400, 64, seed=2)
    directions = principal(slab(rows).unit(), 15) if short else None
    screen = Cuda(64, 0.05, directions, device)
    expected = ring.sets(rows, 0.05, 4096, earlier=earlier)
    assert ring.sets(rows, 0.05, 64, earlier=earlier, screen=screen) == expected


def test_rows_that_the_staging_memory_cannot_hold_are_taken_all_the_same(made, device, monkeypatch):
    monkeypatch.setattr(cuda, "BLOCK_ROWS", 16)
    whole = slab(leaning(made, 60, 16))
    assert named(Cuda(16, 0.05, device=device), whole, whole) >= edges(whole, whole, 0.05)


def test_shadows_are_chosen_where_rows_lean_and_whole_rows_where_they_do_not(made, device):
    count, dim = 1600, 256
    leans = slab(leaning(made, count, dim, power=0.7))
    # All pairs nearly at the limit: what shadows leave open is too much for any of them.
    close = slab(made.clustered(np.random.default_rng(0), count, dim, spread=0.42, centres=1))
    assert cuda.choose(10**6, leans[::2], leans[1::2], 0.1, device).values == 128
    assert cuda.choose(10**6, close[::2], close[1::2], 0.1, device).values == dim
    assert cuda.choose(1000, leans[::2], leans[1::2], 0.1, device).values == dim  # too few rows to look for directions


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_asked_for_and_not_there_is_named(made):
    sample = slab(made.scattered(np.random.default_rng(0), 9, 8))
    with pytest.raises(UserError, match="finds no GPU here"):
        choose(9, sample, 0.1, device="cuda")
    assert not isinstance(choose(10**7, sample, 0.1, device="auto"), Cuda)


def test_auto_takes_a_gpu_for_large_joins_only(made, monkeypatch):
    monkeypatch.setattr(cuda, "gpu", lambda place: torch.device("cpu"))
    sample = slab(made.scattered(np.random.default_rng(0), 40, 16))
    assert isinstance(choose(10**7, sample, 0.1, device="auto"), Cuda)
    assert isinstance(choose(10**4, sample, 0.1, device="cuda"), Cuda)
    assert not isinstance(choose(10**4, sample, 0.1, device="auto"), Cuda)
    assert not isinstance(choose(10**7, sample, 0.1, device="cpu"), Cuda)


def test_ranks_of_a_node_take_its_gpus_in_turn(ring, monkeypatch):
    assert ring.together(3, seat) == [0, 1, 2]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [cuda.gpu(place).index for place in range(4)] == [0, 1, 0, 1]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # bound by the launcher
    assert [cuda.gpu(place).index for place in range(4)] == [0, 0, 0, 0]


@pytest.mark.parametrize("width", [8, 200])
def test_finders_that_lose_or_invent_a_pair_do_not_agree(width):
    plain = Products(CPU)

    class Off:
        def __init__(self, change):
            self.change = change

        def start(self, *tile):
            codes = plain.start(*tile)()
            return lambda: self.change(codes)

    assert cuda.agree(Products(CPU, piece=100), plain, CPU, width, rows=400)
    for change in (lambda codes: codes[1:], lambda codes: torch.cat([codes, codes[:1] + 1]), lambda codes: None):
        assert not cuda.agree(Off(change), plain, CPU, width, rows=400)


INTERPRETED = """
import sys
import numpy as np, torch
from toolkit.dedup.screens import cuda
from toolkit.dedup.screens.kernel import Fused, Shape

device, shape = torch.device("cpu"), Shape(rows=32, columns=64, depth=16, group=2, warps=4, stages=2)
fused, plain = Fused(device, 1 << 16, shape), cuda.Products(device, torch.float32)
rng = np.random.default_rng(0)
for dtype in (torch.float32, torch.float16):  # the interpreter multiplies the bits of bfloat16 as integers
    for m, n, k in ((70, 130, 40), (96, 64, 16), (33, 1, 24)):
        # small integers: their sums are exact in any order
        left, right = (torch.from_numpy(rng.integers(-2, 3, (rows, k)).astype(np.float32)) for rows in (m, n))
        for one, other, itself in ((left, right, False), (left, left, True)):
            wanted = torch.sort(plain.start(one, other, 11.5, itself)()).values
            tile = one.to(dtype), other.to(dtype), 11.5, itself
            assert torch.equal(torch.sort(fused.start(*tile)().long()).values, wanted), (dtype, m, n, k, itself)
            if len(wanted) > 1:
                assert Fused(device, len(wanted), shape).start(*tile)() is not None
                assert Fused(device, len(wanted) - 1, shape).start(*tile)() is None
                print("pairs", len(wanted))
"""


@pytest.mark.skipif(not TRITON, reason="Triton, 285 MB, is not installed")
def test_kernels_in_the_interpreter_find_what_torch_finds():
    """In a process of its own: Triton asks once, at import, whether it is to interpret."""
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), *sys.path])
    answer = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if "only 0-dimensional arrays can be converted" in answer.stderr:
        pytest.skip("the interpreter of this Triton does not know this NumPy")
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert answer.stdout.count("pairs") >= 8


@GPU
@pytest.mark.parametrize("width", [64, 104, 256, 768])
def test_the_fused_kernel_agrees_with_torch_on_this_gpu(width):
    device = torch.device("cuda")
    if not TRITON or torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("the kernels need Triton and a GPU of Hopper's kind or later")
    from toolkit.dedup.screens.kernel import Fused

    for rows in (257, 3000, 9001):
        assert cuda.agree(Fused(device, cuda.CAPACITY), Products(device), device, width, rows)
    assert type(cuda.best(device, width)) is Fused


@GPU
@pytest.mark.parametrize("short", [False, True], ids=["whole rows", "shadows"])
@pytest.mark.parametrize("fused", [False, True], ids=["products", "best"])
def test_sets_on_this_gpu_are_the_cpus(made, ring, short, fused):
    device = torch.device("cuda")
    rows = leaning(made, 40_000, 256)
    directions = principal(slab(rows[::10]).unit(), 63) if short else None
    finder = None if fused else Products(device)
    screen = Cuda(256, 0.02, directions, device, finder)
    assert ring.sets(rows, 0.02, 16_384, screen=screen) == ring.sets(rows, 0.02, 16_384, screen=cpu.Cpu(256, 0.02))


@GPU
def test_float32_switches_of_torch_change_no_set(made, ring):
    rows = leaning(made, 6000, 256)
    directions = principal(slab(rows).unit(), 63)
    expected = ring.sets(rows, 0.02, 4096)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert ring.sets(rows, 0.02, 4096, screen=Cuda(256, 0.02, directions, "cuda")) == expected
    finally:
        torch.set_float32_matmul_precision(before)
