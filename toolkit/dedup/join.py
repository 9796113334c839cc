"""The exact join of two blocks: every pair of rows with `1 - cos < distance`, united in a forest tile by tile.

A screen (screens/) names the pairs of a tile that may be edges, among them every edge, and exact.py decides each in
integers. Where a tile has too many of them it is cut, and at last looked at as a whole in float32: that product's error
has a proven bound (`margin`), so scores above the band are edges, scores below are not, and only those inside are
decided one by one. Nothing is missed, nothing invented, and the sets do not depend on screen, tile size, threads or
BLAS. Edges live for one piece of a tile only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement, product
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from toolkit.dedup.exact import Float, Half, Int, Mask, chunk, cosines, products
from toolkit.dedup.forest import Forest

Float32: TypeAlias = npt.NDArray[np.float32]
Pairs: TypeAlias = tuple[Int, Int]

TILE_ROWS = 2048  # the largest tile looked at as a whole: 2048 x 2048 float32 are 16 MiB
# Deciding one pair in integers takes 4.5 us at 768 values, a whole tile in float32 38 ms (two cores): as long as these.
FEW_PAIRS = 8192
LISTED_PAIRS = 1 << 18  # a screen names no more in one tile: 4 MiB, of which most are in one set already where so many
PIECE_PAIRS = 1 << 18  # scores of a tile looked at together: bounds the edges that exist at one time


def flops(rows: int, dim: int, earlier: int = 0) -> int:
    """Return the work of the join: half of all pairs, a multiplication and an addition per value.

    `earlier` rows are joined with the others and not with each other.
    """
    return (rows + 2 * earlier) * rows * dim


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
class Slab:
    """Rows as they are stored and as they travel: global row numbers, values, squared lengths."""

    numbers: Int  # (m,), ascending
    rows: Half  # (m, d)
    squares: Float  # (m,), above zero

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, part: slice | Mask) -> Slab:
        return Slab(self.numbers[part], self.rows[part], self.squares[part])

    def cut(self, size: int) -> list[Slab]:
        """Return pieces of at most `size` rows."""
        return [self[start : start + size] for start in range(0, len(self), size)]

    def unit(self) -> Float32:
        """Return the rows scaled to length 1, (m, d); two roundings a value."""
        unit = self.rows.astype(np.float32)
        unit *= (1.0 / np.sqrt(self.squares)).astype(np.float32)[:, None]
        return unit


@dataclass(frozen=True, eq=False, slots=True)
class Block:
    """One side of a tile: rows, and what the screen made of them."""

    slab: Slab
    ready: Any  # of the screen; its rows are those of the slab
    error: float = 0.0  # what the screen knows of its own error on these rows

    def __len__(self) -> int:
        return len(self.slab)

    def __getitem__(self, part: slice | Mask) -> Block:
        return Block(self.slab[part], self.ready[part], self.error)

    def cut(self, size: int) -> list[Block]:
        """Return pieces of at most `size` rows."""
        return [self[start : start + size] for start in range(0, len(self), size)]


class Screen(Protocol):
    """Names the pairs of a tile that may be edges; which and how many more decides the time, never the result."""

    tile_rows: int  # rows of a block at most
    panel_rows: int  # rows held ready while others pass by
    told: str  # what it compares, how and where, in words

    def ready(self, slab: Slab) -> Block:
        """Return the rows made ready."""

    def ahead(self, left: Block, right: Block) -> None:
        """Hear of a tile that `suspects` will soon be asked for, in the order in which it will be."""

    def suspects(self, left: Block, right: Block) -> Pairs | None:
        """Return pairs (i of left, j of right) that contain every edge; None where they are too many to name.

        Of a block with itself each pair once, i < j.
        """


def tile(screen: Screen, left: Block, right: Block, distance: float, forest: Forest) -> None:
    """Unite the rows of two blocks, or of one block with itself, that have an edge.

    Pairs that are in one set already are passed over: no answer could change the sets. So a set that is spread over all
    tiles costs each of them little, once it is one set.
    """
    if _settled(left.slab, right.slab, forest):
        return
    pairs = screen.suspects(left, right)
    if pairs is not None:
        pairs = _apart(left.slab, right.slab, pairs, forest)
    if pairs is not None and len(pairs[0]) <= FEW_PAIRS:
        _decide(left.slab, right.slab, pairs, distance, forest)
    elif parts := _beside(left, right, forest):
        for one, other in parts:
            tile(screen, one, other, distance, forest)
    elif max(len(left), len(right)) > TILE_ROWS:
        size = max(TILE_ROWS, -(-max(len(left), len(right)) // 2))
        lefts = left.cut(size)
        rights = lefts if left is right else right.cut(size)
        for one, other in combinations_with_replacement(lefts, 2) if left is right else product(lefts, rights):
            tile(screen, one, other, distance, forest)
    else:
        _whole(left, right, distance, forest)


def _beside(left: Block, right: Block, forest: Forest) -> list[tuple[Block, Block]]:
    """Return the tile but for the pairs inside its largest set, as tiles; none where that is no large part of it."""
    roots = forest.find(left.slab.numbers), forest.find(right.slab.numbers)
    sets, counts = np.unique(np.concatenate(roots), return_counts=True)
    ours, theirs = (root == sets[counts.argmax()] for root in roots)
    if np.count_nonzero(ours) * np.count_nonzero(theirs) < LISTED_PAIRS // 2:
        return []
    out = left[~ours]
    rest = out if left is right else right[~theirs]
    tiles = [(left[ours], rest), (out, rest), *([] if left is right else [(out, right[theirs])])]
    return [(one, other) for one, other in tiles if len(one) and len(other)]


def begun(screen: Screen, tiles: Iterable[tuple[Block, Block]]) -> Iterator[tuple[Block, Block]]:
    """Give tiles one by one, each when the screen has heard of the next: it may work on that one meanwhile."""
    last: tuple[Block, Block] | None = None
    for one in tiles:
        screen.ahead(*one)
        if last is not None:
            yield last
        last = one
    if last is not None:
        yield last


def _settled(left: Slab, right: Slab, forest: Forest) -> bool:
    """Return whether all rows of a tile are in one set."""
    ends = forest.find(np.array([left.numbers[0], left.numbers[-1], right.numbers[0], right.numbers[-1]]))
    if (ends != ends[0]).any():
        return False
    return bool((forest.find(left.numbers) == ends[0]).all() and (forest.find(right.numbers) == ends[0]).all())


def _apart(left: Slab, right: Slab, pairs: Pairs, forest: Forest) -> Pairs:
    """Return the pairs that are not in one set."""
    rows, columns = pairs
    apart = forest.find(left.numbers[rows]) != forest.find(right.numbers[columns])
    return rows[apart], columns[apart]


def _decide(left: Slab, right: Slab, pairs: Pairs, distance: float, forest: Forest) -> None:
    """Unite the pairs that are edges."""
    rows, columns = pairs
    edge = near(left, right, rows, columns, distance)
    forest.union(left.numbers[rows[edge]], right.numbers[columns[edge]])


def _whole(left: Block, right: Block, distance: float, forest: Forest) -> None:
    """Look at all pairs of a tile in float32."""
    low, high = band(left.slab.rows.shape[1], distance)
    for rows, columns, scores in _hits(left, right, low, forest):
        sure = scores > high
        forest.union(left.slab.numbers[rows[sure]], right.slab.numbers[columns[sure]])
        doubt = _apart(left.slab, right.slab, (rows[~sure], columns[~sure]), forest)
        _decide(left.slab, right.slab, doubt, distance, forest)


def _unit(block: Block) -> Float32:
    return block.ready if isinstance(block.ready, np.ndarray) else block.slab.unit()


def _hits(left: Block, right: Block, low: np.float32, forest: Forest) -> Iterator[tuple[Int, Int, Float32]]:
    """Give the pairs of two sets that score `low` or more: rows, columns, scores, a piece of the tile at a time.

    The sets are looked at for each piece anew, so in a dense tile the first piece unites nearly all of it.
    """
    numbers = left.slab.numbers
    with np.errstate(invalid="ignore"):  # some BLAS kernels raise the flag for lanes that they throw away
        scores = _unit(left) @ _unit(right).T
    if left is right:
        np.fill_diagonal(scores, -np.inf)
    hot = np.flatnonzero(scores.max(axis=1) >= low)
    size = max(1, PIECE_PAIRS // len(right))
    for start in range(0, len(hot), size):
        part = slice(start, start + size)
        piece = scores[hot[part]]
        apart = forest.find(numbers[hot[part]])[:, None] != forest.find(right.slab.numbers)
        rows, columns = np.nonzero((piece >= low) & apart)
        found, rows = piece[rows, columns], hot[part][rows]
        upper = slice(None) if left is not right else rows < columns
        yield rows[upper], columns[upper], found[upper]


def near(left: Slab, right: Slab, rows: Int, columns: Int, distance: float) -> npt.NDArray[np.bool_]:
    """Decide `1 - cos < distance` for the pairs (rows[k] of left, columns[k] of right), exactly."""
    result = np.empty(len(rows), dtype=np.bool_)
    size = chunk(left.rows.shape[1])
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        i, j = rows[part], columns[part]
        xx, yy = left.squares[i], right.squares[j]
        xy = products(left.rows[i], right.rows[j], xx, yy)
        result[part] = 1.0 - cosines(xy, xx, yy) < distance
    return result
