"""The screen on this machine's cores: products of shadows (shadow.py) by oneDNN, in bfloat16 where that is faster.

bfloat16 has twice the speed of float32 with AVX-512, and some fifteen times with AMX. Two blocks are multiplied into
one reused tile that stays in the cache; positive floats are ordered as their bits, so a maximum over the tile's integer
view tells which rows are clean. What rounding did to each block is measured, not assumed, and the limit is lowered by
what it may have cost.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from toolkit.dedup.join import LISTED_PAIRS, TILE_ROWS, Block, Pairs, Slab
from toolkit.dedup.screens.shadow import UNIT, Directions, cast, told

PANEL_BYTES, STORED_BYTES = 32 << 20, 128 << 20  # of a panel: shadows, and at most so much of the rows that they are of
BITS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}


class Cpu:
    """Screens tiles; `directions` null: whole rows; `leaves`: the share of pairs that it left in a trial, if any."""

    def __init__(
        self,
        dim: int,
        distance: float,
        directions: Directions | None = None,
        dtype: torch.dtype = torch.bfloat16,
        *,
        leaves: float | None = None,
    ) -> None:
        self.values = dim if directions is None else len(directions) + 1
        self.dtype = dtype
        self.told = told(directions, dim, f"in {str(dtype).removeprefix('torch.')} on the CPU", leaves)
        self.tile_rows = TILE_ROWS
        self.panel_rows = min(PANEL_BYTES // (dtype.itemsize * self.values), STORED_BYTES // (2 * dim))
        self._distance, self._directions = distance, directions
        self._scores = torch.empty(TILE_ROWS * TILE_ROWS, dtype=dtype)
        torch.set_float32_matmul_precision("highest")  # oneDNN may else multiply float32 as bfloat16: `lowered` bars it

    def ready(self, slab: Slab) -> Block:
        """Return the rows with their shadows, and what these may be off."""
        shadow, error = cast(slab.unit(), self._directions)
        short, rounding = rounded(torch.from_numpy(shadow), self.dtype)
        return Block(slab, short, error + rounding)

    def ahead(self, left: Block, right: Block) -> None:
        """Do nothing: the cores are busy with the tile before."""

    def suspects(self, left: Block, right: Block) -> Pairs | None:
        """Return the pairs whose shadows' product reaches the lowered limit."""
        low = lowered(self._distance, self.values, left.error, right.error)
        if low <= 0:
            return None
        scores = self._scores[: len(left) * len(right)].view(len(left), len(right))
        torch.mm(left.ready, right.ready.T, out=scores)
        if left is right:
            scores.fill_diagonal_(-1.0)
        bits, least = scores.view(BITS[self.dtype]), floor_bits(low, self.dtype)
        hot = torch.nonzero(torch.amax(bits, dim=1) >= least).ravel()
        over = bits[hot] >= least
        if torch.count_nonzero(over) > LISTED_PAIRS:
            return None
        found = torch.nonzero(over)
        rows, columns = hot[found[:, 0]].numpy(), found[:, 1].numpy()
        upper = slice(None) if left is not right else rows < columns
        return rows[upper], columns[upper]


def rounded(shadows: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, float]:
    """Return float32 rows in another type, and the length of the largest residue of a row, rounded up."""
    short = shadows.to(dtype)
    residue = torch.linalg.vector_norm(short.float() - shadows, dim=1)
    return short, 1.001 * float(residue.max())


def lowered(distance: float, values: int, left: float, right: float) -> float:
    """Return a score that the product of two rounded shadows reaches for every edge.

    left, right: error of each side, shadow.cast's and rounding's together. With s', t' the rounded shadows and r, r'
    their roundings, x.y <= s'.t' + r |t| + |s'| r' + e |t| + e' |s|, no length is above 1 + 3 error, and a float32 sum
    of `values` exact products is off by 1.01 (values + 8) u |s'||t'|; four times that, because tensor cores round their
    sums towards zero and some CPUs flush denormals. 1e-9 covers float64 here and in the edge's definition.
    """
    reach = (1.0 + 3.0 * left) * (1.0 + 3.0 * right)
    sums = 4.04 * (values + 8) * UNIT
    return 1.0 - distance - (left + right + sums) * reach - 1e-9


def floor_bits(score: float, dtype: torch.dtype) -> int:
    """Return the bits of the largest number of that type not above a positive score.

    Rounding keeps order, so no product that reaches the score is rounded below it.
    """
    below = np.nextafter(np.float32(score), np.float32(0))
    bits = int(below.view(np.int32))
    return bits if dtype == torch.float32 else bits >> 16


def slowness(dtype: torch.dtype, rows: int, dim: int) -> float:
    """Return the time of a product of two blocks of `dim` values in this type, as a multiple of NumPy's in float32."""
    ones = np.ones((rows, dim), dtype=np.float32)
    short, scores = torch.from_numpy(ones).to(dtype), torch.empty((rows, rows), dtype=dtype)
    return _least(lambda: torch.mm(short, short.T, out=scores)) / _least(lambda: ones @ ones.T)


def _least(work: Callable[[], object]) -> float:
    """Return the least of five times of some work: these machines are shared."""
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)
