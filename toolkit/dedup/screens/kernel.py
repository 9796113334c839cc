"""The product of two blocks with the limit in its epilogue, as Triton kernels for GPUs of Hopper's kind and later.

Scores never leave the registers: `_find` keeps of each piece of a tile whether its highest score reaches the limit, and
`_list` computes those few pieces once more and writes the pairs. Two kernels, because the listing takes so many
registers that it would slow down every piece if it stood behind each of them. Both are given blocks through tensor
descriptors: rows beyond a block's end are read as zeros, whose score is below any limit, and so need no mask.

Promise: every pair whose products, summed in float32 in any order, reach the limit is in the list, or the list is None.
Its order differs from run to run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor


class Shape(NamedTuple):
    """How the work is cut for the chip."""

    rows: int
    columns: int
    depth: int  # values of a row multiplied at once
    group: int  # pieces below each other that are worked on together: their rows are read from L2
    warps: int
    stages: int


# 128 x 256 scores are half of a multiprocessor's registers, the most that leaves it room to work; four steps of 64
# values on their way fill 197 of its 227 KB. One such program per multiprocessor walks through the whole tile, so that
# the next piece is being loaded while the last is looked at. Compiled for sm_90: 167 registers, none spilled.
HOPPER = Shape(rows=128, columns=256, depth=64, group=8, warps=8, stages=4)
CAPABILITY = (9, 0)  # before it there is no engine that copies by descriptor, and nothing would be loaded ahead

SIZES = ["rows", "columns", "capacity"]  # ragged blocks are no reason to compile anew


@triton.jit
def _corner(block, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr):
    """Return the first row and column of a piece."""
    down, across = tl.cdiv(rows, ROWS), tl.cdiv(columns, COLUMNS)
    first = block // (GROUP * across) * GROUP
    size = min(down - first, GROUP)
    inside = block % (GROUP * across)
    return (first + inside % size) * ROWS, inside // size * COLUMNS


@triton.jit
def _product(
    left,
    right,
    top,
    side,
    VALUES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Return the scores of a piece, (ROWS, COLUMNS) float32."""
    scores = tl.zeros((ROWS, COLUMNS), tl.float32)
    for at in range(0, VALUES, DEPTH):
        scores = tl.dot(left.load([top, at]), right.load([side, at]).T, scores)
    return scores


@triton.jit(do_not_specialize=SIZES[:2])
def _find(
    left,
    right,
    hot,
    counts,
    low,
    rows,
    columns,
    VALUES: tl.constexpr,
    ITSELF: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):
    """List the pieces that have a score of `low` or more in hot, and count them in counts[0]."""
    pieces = tl.cdiv(rows, ROWS) * tl.cdiv(columns, COLUMNS)
    for piece in tl.range(tl.program_id(0), pieces, tl.num_programs(0), flatten=True):
        top, side = _corner(piece, rows, columns, ROWS, COLUMNS, GROUP)
        if not ITSELF or top < side + COLUMNS - 1:  # else all of it lies on or below the diagonal
            scores = _product(left, right, top, side, VALUES, ROWS, COLUMNS, DEPTH)
            if tl.max(scores) >= low:
                tl.store(hot + tl.atomic_add(counts, 1, sem="relaxed"), piece)


@triton.jit(do_not_specialize=SIZES)
def _list(
    left,
    right,
    hot,
    codes,
    counts,
    low,
    rows,
    columns,
    capacity,
    VALUES: tl.constexpr,
    ITSELF: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Write the pairs of hot pieces as row * columns + column, and count them, also those beyond the capacity."""
    for at in range(tl.program_id(0), tl.load(counts), tl.num_programs(0)):
        top, side = _corner(tl.load(hot + at), rows, columns, ROWS, COLUMNS, GROUP)
        scores = _product(left, right, top, side, VALUES, ROWS, COLUMNS, DEPTH)
        row = top + tl.arange(0, ROWS)[:, None]
        column = side + tl.arange(0, COLUMNS)[None, :]
        hit = scores >= low
        if ITSELF:
            hit &= row < column
        one = hit.to(tl.int32)
        each = tl.sum(one, axis=1)
        number = tl.sum(each, axis=0)
        begin = tl.atomic_add(counts + 1, number, sem="relaxed")
        if begin + number <= capacity:
            slot = begin + (tl.cumsum(each, axis=0) - each)[:, None] + tl.cumsum(one, axis=1) - 1
            tl.store(codes + slot, row * columns + column, mask=hit)


class Fused:
    """Finds pairs by these kernels."""

    told = "the fused kernel"

    def __init__(self, device: torch.device, capacity: int, shape: Shape = HOPPER) -> None:
        self._capacity, self._shape = capacity, shape
        self._programs = (
            torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2
        )  # the interpreter takes them in turn

    def start(
        self, left: torch.Tensor, right: torch.Tensor, low: float, itself: bool
    ) -> Callable[[], torch.Tensor | None]:
        """Start on a tile (m, k) x (n, k); what is returned waits for the pairs' codes, row * n + column, int32 (p,).

        `low` is above zero by far. Of a block with itself each pair comes once, row < column. Raises ValueError where
        codes would outgrow int32.
        """
        rows, columns, shape = len(left), len(right), self._shape
        if rows * columns > 1 << 31:
            raise ValueError(f"a tile of {rows} x {columns} has more pairs than int32 can number")
        pieces = -(-rows // shape.rows) * -(-columns // shape.columns)
        hot, codes = (torch.empty(size, dtype=torch.int32, device=left.device) for size in (pieces, self._capacity))
        counts = torch.zeros(2, dtype=torch.int32, device=left.device)
        one = TensorDescriptor.from_tensor(left, [shape.rows, shape.depth])
        other = TensorDescriptor.from_tensor(right, [shape.columns, shape.depth])
        # Triton hands a float over as float32: it must not be rounded up.
        limit = float(np.nextafter(np.float32(low), np.float32(0)))
        cut = {"ROWS": shape.rows, "COLUMNS": shape.columns, "DEPTH": shape.depth, "GROUP": shape.group}
        fixed = {"VALUES": left.shape[1], "ITSELF": itself, **cut, "num_warps": shape.warps}
        grid = (min(self._programs, pieces),)
        _find[grid](one, other, hot, counts, limit, rows, columns, **fixed, num_stages=shape.stages)
        # The listing takes shared memory for its own ends: three stages leave it enough.
        capacity = self._capacity
        _list[grid](one, other, hot, codes, counts, limit, rows, columns, capacity, **fixed, num_stages=3)

        def wait() -> torch.Tensor | None:
            number = counts.tolist()[1]
            return codes[:number] if number <= capacity else None

        return wait
