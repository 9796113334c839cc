"""The screens of the exact join: what is cheap where, and never wrong.

A screen is a faster way to see that nearly all pairs of a tile are no edges. Each has a proven bound on what it may
overlook, so the sets are those of the definition with any of them, and the choice is free to follow a measured time.
"""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np

from toolkit.dedup import join
from toolkit.dedup.forest import Forest
from toolkit.dedup.join import Block, Pairs, Screen, Slab, flops
from toolkit.dedup.screens.shadow import Directions, principal
from toolkit.errors import UserError

PANEL_BYTES = 48 << 20  # 16,384 rows of 768 float32 values: making a piece ready costs a tenth of one of its tiles
SMALL_FLOPS = 5 * 10**11  # some seconds in float32 on two cores: not worth the import of torch
# 20 s of some cores with AMX: as long as a GPU takes to be woken up and its kernels to be compiled for the first time.
LARGE_FLOPS = 2 * 10**13
# Half of the sample gives the directions, the other half shows how many pairs they leave: on the rows that gave them,
# directions look better than they are.
SAMPLE_ROWS = 8192
TRIAL_ROWS = 1024
MANY = 20  # times as many rows as values: then finding the directions, d^3 steps, takes a small part of the join
SHARES = (8, 6, 4, 3, 2)  # a part of a row's values that is tried as the length of its shadow


class Single:
    """No screen: each tile is looked at as a whole in float32. For small joins, and where torch is missing."""

    def __init__(self, dim: int) -> None:
        self.tile_rows = join.TILE_ROWS
        self.panel_rows = PANEL_BYTES // (4 * max(1, dim))
        self.told = f"whole tiles of {dim} values in float32 by NumPy"

    def ready(self, slab: Slab) -> Block:
        """Return the rows with their float32 form of length 1."""
        return Block(slab, slab.unit())

    def ahead(self, left: Block, right: Block) -> None:
        """Do nothing: the cores are busy with the tile before."""

    def suspects(self, left: Block, right: Block) -> Pairs | None:
        """Name none."""
        return None


def choose(rows: int, sample: Slab, distance: float, device: str = "auto", place: int = 0) -> Screen:
    """Return the screen that should take the least time; sample: about SAMPLE_ROWS of the rows, from all over.

    device: as the option `dedup.device` says · place: which of the ranks on its node this is. Raises UserError where
    a GPU is asked for and there is none.
    """
    work = flops(rows, sample.rows.shape[1])
    if device == "cuda" or (device == "auto" and work >= LARGE_FLOPS):
        found = _gpu(rows, sample, distance, place)
        if found is not None:
            return found
        if device == "cuda":
            raise UserError(
                "dedup.device is cuda, and PyTorch finds no GPU here: it is not installed, was built without CUDA, or "
                "the job was given no GPU. Install torch with CUDA, ask for a GPU (option gres of dedup and merge in "
                "the site file), or give auto."
            )
    if len(sample) < SAMPLE_ROWS // 2 or work < SMALL_FLOPS:
        return Single(sample.rows.shape[1])
    return _cpu(rows, sample, distance)


def _gpu(rows: int, sample: Slab, distance: float, place: int) -> Screen | None:
    try:
        from toolkit.dedup.screens import cuda
    except ImportError:
        return None
    device = cuda.gpu(place)
    return None if device is None else cuda.choose(rows, *halves(sample, distance), distance, device)


def _cpu(rows: int, sample: Slab, distance: float) -> Screen:
    dim = sample.rows.shape[1]
    try:
        from toolkit.dedup.screens import cpu
    except ImportError:
        return Single(dim)
    known, fresh = halves(sample, distance)
    slowness, dtype = min(((cpu.slowness(dtype, TRIAL_ROWS, dim), dtype) for dtype in cpu.BITS), key=lambda one: one[0])
    forms = [None, *lengths(rows, known)]
    screens = [cpu.Cpu(dim, distance, form, dtype) for form in forms]
    shares = [passed(screen, fresh) for screen in screens]
    costs = [cost(share, slowness * screen.values / dim) for share, screen in zip(shares, screens, strict=True)]
    least = min(costs)
    if least >= 1:
        return Single(dim)
    chosen = costs.index(least)
    return cpu.Cpu(dim, distance, forms[chosen], dtype, leaves=shares[chosen])


def halves(sample: Slab, distance: float) -> tuple[Slab, Slab]:
    """Return rows to make shadows from, and other ones to try them on: one of each set, at least two.

    A near-equal set (a placeholder image in many files) holds many pairs, and once it is one set they cost nothing.
    """
    fresh = sample[1::2]
    fresh = Slab(np.arange(len(fresh)), fresh.rows, fresh.squares)
    single, forest = Single(fresh.rows.shape[1]), Forest(max(2, len(fresh)))
    blocks = [single.ready(part) for part in fresh.cut(join.TILE_ROWS)]
    for left, right in combinations_with_replacement(blocks, 2):
        join.tile(single, left, right, distance, forest)
    first = forest.roots()[: len(fresh)] == fresh.numbers
    first[:2] = True
    return sample[::2], fresh[first]


def lengths(rows: int, known: Slab) -> list[Directions]:
    """Return the directions to try, shorter and longer ones; none where finding them takes longer than they save."""
    dim = known.rows.shape[1]
    if rows < MANY * dim:
        return []
    longest = principal(known.unit(), dim // min(SHARES))
    return [longest.first(dim // share) for share in SHARES if dim >= share]


def passed(screen: Screen, fresh: Slab) -> float:
    """Return the share of the pairs of a tile that a screen lets pass; 1 where they are too many to name."""
    middle = len(fresh) // 2
    pairs = screen.suspects(screen.ready(fresh[:middle]), screen.ready(fresh[middle:]))
    return 1.0 if pairs is None else len(pairs[0]) / (middle * (len(fresh) - middle))


def cost(share: float, product: float) -> float:
    """Return the time of a tile as a multiple of that without a screen, from the share of its pairs that are left.

    It is counted, not timed: on a busy machine, times of single tiles say little. product: the time of its matrix
    product alone.
    """
    return product + min(1.0, share * join.TILE_ROWS**2 / join.FEW_PAIRS)
