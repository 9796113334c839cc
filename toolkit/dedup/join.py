"""The exact join: every pair of rows with `1 - cos < distance`, united in a forest tile by tile.

Each tile of two blocks is screened by one float32 matrix product. The screen's error has a proven bound (`margin`), so
scores above the band are edges, scores below are not, and only those inside are decided by integers (exact.py).
Nothing is missed, nothing invented, and the sets do not depend on block size, threads or BLAS.

Memory: the caller's float16 rows, some 40 bytes a row for squares, twins and the forest, PANEL_BLOCKS + 1 blocks of
6 bytes a value, and one tile. Edges live for one piece of a tile only. Work: n^2 d FLOP over the n rows that differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from toolkit.dedup.exact import Float, Half, Int, chunk, cosines, dots, squares, steps
from toolkit.dedup.forest import Forest

Single: TypeAlias = npt.NDArray[np.float32]

BLOCK_ROWS = 2048  # a tile of 2048 x 2048 float32 is 16 MiB
PANEL_BLOCKS = 8  # blocks held while the others pass by: making a block costs a tenth of one of its tiles
PIECE_PAIRS = 1 << 18  # scores of a tile looked at together: bounds the edges that exist at one time
HASH_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no power of it is zero modulo 2^64


def flops(rows: int, dim: int) -> int:
    """Return the work of the join: half of all pairs, a multiplication and an addition per value."""
    return rows * rows * dim


def margin(dim: int) -> float:
    """Return a bound on |screened score - exact cosine| for rows of `dim` values.

    With u = 2^-24: scaling a row in float32 costs two roundings, so a factor of at most (1+u)^2 a value and,
    both rows taken, less than 4.01 u of |x||y|. A sum of d products in any order, fused or not, costs at most
    d u / (1 - d u) of sum |x y| <= |x||y|. Up to d = 2^17 the two stay below 1.01 (d + 8) u; the rest of it
    covers underflow (every product is above 2^-100) and the float64 roundings of `1 - cos` on the exact side.
    """
    if dim > 1 << 17:
        raise ValueError(f"rows of {dim} values: the screen's bound is proven up to {1 << 17}")
    return 1.01 * (dim + 8) * 2.0**-24


def band(dim: int, distance: float) -> tuple[np.float32, np.float32]:
    """Return the scores (low, high): below low no pair is an edge, above high every pair is one."""
    threshold, error = 1.0 - distance, margin(dim)
    down, up = np.float32(-np.inf), np.float32(np.inf)
    return np.nextafter(np.float32(threshold - error), down), np.nextafter(np.float32(threshold + error), up)


@dataclass(frozen=True, eq=False, slots=True)
class Block:
    """Some rows as the join needs them: global row numbers, stored values, squared and unit lengths."""

    numbers: Int  # (m,), ascending
    rows: Half  # (m, d)
    squares: Float  # (m,)
    unit: Single  # (m, d), scaled to length 1

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True, eq=False, slots=True)
class Blocks:
    """The chosen rows of a matrix, cut into blocks that are made when asked for."""

    rows: Half  # (n, d), all rows
    squares: Float  # (n,)
    chosen: Int  # (k,) row numbers that take part, ascending
    size: int = BLOCK_ROWS

    def __len__(self) -> int:
        return (len(self.chosen) + self.size - 1) // self.size

    def __getitem__(self, index: int) -> Block:
        numbers = self.chosen[index * self.size : (index + 1) * self.size]
        rows, lengths = self.rows[numbers], self.squares[numbers]
        unit = rows.astype(np.float32)
        unit *= (1.0 / np.sqrt(lengths)).astype(np.float32)[:, None]
        return Block(numbers=numbers, rows=rows, squares=lengths, unit=unit)


def _ignore(_: int) -> None:
    """Take no notice of progress."""


def components(
    rows: Half, distance: float, block: int = BLOCK_ROWS, advance: Callable[[int], None] = _ignore
) -> tuple[Forest, Float]:
    """Return the forest of near-duplicates of rows (n, d), and the rows' squared lengths (n,).

    A row that is zero or not finite has no direction: it has no edge, and its squared length is 0 or NaN.
    """
    lengths = squares(rows)
    first = twins(rows)
    forest = Forest(len(rows))
    valid = lengths > 0
    copies = np.flatnonzero(valid & (first != np.arange(len(rows))))
    forest.union(copies, first[copies])
    valid[copies] = False
    chosen = np.flatnonzero(valid)
    advance(len(rows) - len(chosen))
    join(Blocks(rows, lengths, chosen, block), distance, forest, advance)
    return forest, lengths


def twins(rows: Half) -> Int:
    """Return for each row the smallest row number with equal bytes, (n, d) -> (n,).

    Rows are told apart by a polynomial of their 16-bit words modulo 2^64 and then compared byte by byte:
    where two different rows collide, the later one counts as its own first, which costs time and never
    changes a set.
    """
    count, dim = rows.shape
    powers = np.multiply.accumulate(np.full(dim, HASH_BASE, dtype=np.uint64))
    keys = np.empty(count, dtype=np.uint64)
    for part in _slices(count, chunk(dim)):
        keys[part] = np.einsum("ij,j->i", rows[part].view(np.uint16).astype(np.uint64), powers)
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order], prepend=~keys[order[:1]]) != 0)
    first = np.empty(count, dtype=np.int64)
    first[order] = np.repeat(order[starts], np.diff(starts, append=count))
    claimed = np.flatnonzero(first != np.arange(count))
    for part in _slices(len(claimed), chunk(dim)):
        twin = claimed[part]
        equal = (rows[twin].view(np.uint16) == rows[first[twin]].view(np.uint16)).all(axis=1)
        first[twin[~equal]] = twin[~equal]
    return first


def join(blocks: Blocks, distance: float, forest: Forest, advance: Callable[[int], None] = _ignore) -> None:
    """Unite all rows that have an edge, by the upper triangle of tiles; `advance` hears of each finished panel."""
    for start in range(0, len(blocks), PANEL_BLOCKS):
        end = min(start + PANEL_BLOCKS, len(blocks))
        panel = [blocks[i] for i in range(start, end)]
        for left, right in combinations_with_replacement(panel, 2):
            tile(left, right, distance, forest)
        for j in range(end, len(blocks)):
            right = blocks[j]
            for left in panel:
                tile(left, right, distance, forest)
        advance(sum(map(len, panel)))


def tile(left: Block, right: Block, distance: float, forest: Forest) -> None:
    """Unite the rows of two blocks, or of one block with itself, that have an edge.

    Pairs that are in one set already are passed over: no answer could change the sets.
    """
    low, high = band(left.unit.shape[1], distance)
    for rows, columns, scores in _hits(left, right, low, forest):
        sure = scores > high
        forest.union(left.numbers[rows[sure]], right.numbers[columns[sure]])
        doubt = np.flatnonzero(~sure)
        apart = forest.find(left.numbers[rows[doubt]]) != forest.find(right.numbers[columns[doubt]])
        i, j = rows[doubt[apart]], columns[doubt[apart]]
        edge = near(left, right, i, j, distance)
        forest.union(left.numbers[i[edge]], right.numbers[j[edge]])


def _hits(left: Block, right: Block, low: np.float32, forest: Forest) -> Iterator[tuple[Int, Int, Single]]:
    """Give the pairs of two sets that score `low` or more: rows, columns, scores, a piece of the tile at a time.

    The sets are looked at for each piece anew, so in a dense tile the first piece unites nearly all of it.
    """
    scores = left.unit @ right.unit.T
    if left is right:
        np.fill_diagonal(scores, -np.inf)
    hot = np.flatnonzero(scores.max(axis=1) >= low)
    for part in _slices(len(hot), max(1, PIECE_PAIRS // len(right))):
        piece = scores[hot[part]]
        apart = forest.find(left.numbers[hot[part]])[:, None] != forest.find(right.numbers)
        rows, columns = np.nonzero((piece >= low) & apart)
        found, rows = piece[rows, columns], hot[part][rows]
        upper = slice(None) if left is not right else rows < columns
        yield rows[upper], columns[upper], found[upper]


def near(left: Block, right: Block, rows: Int, columns: Int, distance: float) -> npt.NDArray[np.bool_]:
    """Decide `1 - cos < distance` for the pairs (rows[k] of left, columns[k] of right), exactly."""
    result = np.empty(len(rows), dtype=np.bool_)
    for part in _slices(len(rows), chunk(left.rows.shape[1])):
        i, j = rows[part], columns[part]
        xy = dots(steps(left.rows[i]), steps(right.rows[j]))
        result[part] = 1.0 - cosines(xy, left.squares[i], right.squares[j]) < distance
    return result


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))
