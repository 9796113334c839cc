"""The most bytes of numpy that this rank holds in a join of `rows` rows of some kind, then in choosing survivors.

Prints one JSON object a rank. Windows are made small, as in tests/dedup/test_memory.py.
"""

from __future__ import annotations

import json
import sys
import tracemalloc
from pathlib import Path

import numpy as np

from toolkit.dedup import exact, forest, join, node
from toolkit.dedup import survivors as keeping
from toolkit.dedup.ledger import Ledger
from toolkit.dedup.ring import components
from toolkit.dedup.screens import choice
from toolkit.dedup.screens.choice import Single
from toolkit.dedup.share import Share
from toolkit.dedup.survivors import survivors
from toolkit.run import mpi

DIM, BLOCK, DISTANCE = 32, 64, 0.05

exact.CHUNK_VALUES, join.TILE_ROWS, join.PIECE_PAIRS = 1 << 12, 64, 1 << 10
choice.PANEL_BYTES, keeping.WINDOW_ROWS, keeping.CACHED_ROWS, keeping.SCAN_ROWS = 64 * 4 * DIM, 64, 16, 256
node.MERGE_ROWS, forest.ROOT_ROWS = 256, 256


def made(kind: str, rows: int) -> np.ndarray:
    """Rows of which no two, or always two, or all are alike, and none equal."""
    rng = np.random.default_rng(1)
    sets = {"many": rows, "twos": rows // 2, "near": 1}[kind]
    found = rng.standard_normal((sets, DIM))[np.arange(rows) * sets // rows] + 0.01 * rng.standard_normal((rows, DIM))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)


def common() -> int:
    """Bytes of the memory that this rank has in common with others of its node, of which tracemalloc hears nothing."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    ends = [line.split()[0].split("-") for line in maps if "/memfd:danqing-" in line]
    return sum(int(end, 16) - int(begin, 16) for begin, end in ends)


def main() -> None:
    """Join, choose, and tell."""
    kind, count = sys.argv[1], int(sys.argv[2])
    world = mpi.world()
    share = Share(world, count, BLOCK)
    rows = made(kind, count)[share.begin : share.end]
    ids = np.random.default_rng(2).integers(256, size=(count, 16), dtype=np.uint8)[share.begin : share.end]
    ledger = Ledger(share, DIM, DISTANCE, lambda: None)  # type: ignore[arg-type, return-value]
    ledger.load = lambda _: None  # type: ignore[method-assign]
    np.unique([0])  # imports a module when it is first called
    world.allgather(0)
    tracemalloc.start()
    found, lengths = components(share, rows, DISTANCE, ledger, screen=Single(DIM))
    joined = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    answer = survivors(share, found.parent, ids, lengths, rows)
    chosen = tracemalloc.get_traced_memory()[1]
    told = {"rows": len(rows), "joined": joined, "chosen": chosen, "forest": common()}
    lines = world.allgather(json.dumps(told | {"stay": int((~answer.dropped).sum())}))
    if world.rank == 0:
        print("\n".join(lines))


main()
