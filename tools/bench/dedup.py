"""Time the exact join against the bare float32 product that it is built on: python tools/bench/dedup.py [rows] [dim].

Unit rows of which 10 % are copies with noise (cosine 0.86 to 0.96), so that scores lie on both sides of the limit. The
bare product computes the same upper triangle of tiles from float32 rows and looks at no score. Both take turns, the
better of three counts. Prints a markdown table.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from toolkit.data.world import ALONE
from toolkit.dedup.forest import Forest
from toolkit.dedup.join import TILE_ROWS, flops
from toolkit.dedup.ledger import Ledger
from toolkit.dedup.ring import components
from toolkit.dedup.share import Share, block_rows
from toolkit.run.plain import Scratch

DISTANCE = 0.1


def planted(rows: int, dim: int, share: float = 0.1) -> npt.NDArray[np.float16]:
    """Return unit rows (rows, dim) of which the last `share` are noisy copies of the first."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((rows, dim), dtype=np.float32)
    copies = int(rows * share)
    noise = rng.standard_normal((copies, dim), dtype=np.float32)
    values[rows - copies :] = values[:copies] + rng.uniform(0.3, 0.6, (copies, 1)).astype(np.float32) * noise
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return values.astype(np.float16)


def product(rows: npt.NDArray[np.float32]) -> None:
    """Compute every tile of the upper triangle and throw it away."""
    blocks = [rows[start : start + TILE_ROWS] for start in range(0, len(rows), TILE_ROWS)]
    for i, left in enumerate(blocks):
        for right in blocks[i:]:
            left @ right.T


def join(rows: npt.NDArray[np.float16]) -> Forest:
    """Join all rows in this process."""
    share = Share(ALONE, len(rows), block_rows(len(rows)))
    return components(share, rows, DISTANCE, Ledger(share, rows.shape[1], DISTANCE, lambda: Scratch(Path())))[0]


def seconds(work: Callable[[], object]) -> float:
    """Return how long the work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main(rows: int = 20_000, dim: int = 768) -> None:
    """Print the table."""
    features = planted(rows, dim)
    single = features.astype(np.float32)
    turns = [(seconds(lambda: product(single)), seconds(lambda: join(features))) for _ in range(3)]
    bare, whole = map(min, zip(*turns, strict=True))
    roots = join(features).roots()
    print("| work | rows | dim | seconds | rows/s | GFLOP/s | sets with copies |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, taken, sets in (
        ("bare float32 product", bare, "-"),
        ("exact join", whole, str(int((np.bincount(roots) > 1).sum()))),
    ):
        rate = flops(rows, dim) / taken / 1e9
        print(f"| {name} | {rows:,} | {dim} | {taken:.2f} | {rows / taken:,.0f} | {rate:.0f} | {sets} |")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
