"""The screens of the exact join: what is cheap where, and never wrong.

A screen is a faster way to see that nearly all pairs of a tile are no edges. Each has a proven bound on what it may
overlook, so the sets are those of the definition with any of them, and the choice is free to follow a measured time.
"""

from __future__ import annotations

from toolkit.dedup import join
from toolkit.dedup.join import Block, Pairs, Slab

PANEL_BYTES = 48 << 20  # 16,384 rows of 768 float32 values: making a piece ready costs a tenth of one of its tiles


class Single:
    """No screen: each tile is looked at as a whole in float32. For small joins, and where torch is missing."""

    def __init__(self, dim: int) -> None:
        self.tile_rows = join.TILE_ROWS
        self.panel_rows = PANEL_BYTES // (4 * max(1, dim))

    def ready(self, slab: Slab) -> Block:
        """Return the rows with their float32 form of length 1."""
        return Block(slab, slab.unit())

    def suspects(self, left: Block, right: Block) -> Pairs | None:
        """Name none."""
        return None
