"""Time the join by inverted lists beside the exact one: python tools/bench/ivf.py [rows] [dim] [lists].

The rows of tools/bench/dedup.py, one process, as many threads as OMP_NUM_THREADS says. Recall is that of all pairs of
rows that the exact join puts into one set; `measured` is what a run says of itself, from the edges of the rows that it
asked. Core-seconds are those of this process, so a machine with other work shows. Prints a markdown table.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
from dedup import DISTANCE, planted

from toolkit.config.embed import Dedup
from toolkit.data.world import ALONE
from toolkit.dedup import ivf, ring
from toolkit.dedup.forest import Forest
from toolkit.dedup.ledger import Ledger
from toolkit.dedup.share import Share, block_rows
from toolkit.run.plain import Scratch

SHIPPED = Dedup().probes
PROBES = sorted({1, 4, 16, SHIPPED, 64})


def exact(share: Share, rows: npt.NDArray[np.float16]) -> Forest:
    """Join all rows with each other."""
    with TemporaryDirectory() as folder:
        scratch = Scratch(Path(folder))
        ledger = Ledger(share, rows.shape[1], DISTANCE, lambda: scratch)
        return ring.components(share, rows, DISTANCE, ledger)[0]


def timed(work: Callable[[], Forest]) -> tuple[npt.NDArray[Any], str]:
    """Return the roots that the work finds, and its seconds and core-seconds as cells."""
    start, used = time.perf_counter(), time.process_time()
    forest = work()
    return forest.roots(), f"{time.perf_counter() - start:.2f} | {time.process_time() - used:.2f}"


def pairs(roots: npt.NDArray[Any]) -> int:
    """Return how many pairs of rows share a set."""
    sizes = np.bincount(roots).astype(np.int64)
    return int((sizes * (sizes - 1) // 2).sum())


def main(rows: int = 20_000, dim: int = 768, lists: int = 0) -> None:
    """Print the table."""
    features, share = planted(rows, dim), Share(ALONE, rows, block_rows(rows))
    small = Share(ALONE, rows // 10, block_rows(rows // 10))
    exact(small, features[: rows // 10])  # libraries are loaded here
    roots, cells = timed(lambda: exact(share, features))
    whole = pairs(roots)
    print("| work | rows | dim | seconds | core-s | recall | measured | rows asked | their edges |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    print(f"| exact join | {rows:,} | {dim} | {cells} | 1 | - | - | - |", flush=True)
    for probes in PROBES:
        said: dict[str, int] = {}
        options: dict[str, Any] = {"lists": lists or None, "probes": probes, "tally": said.__setitem__}
        roots, cells = timed(lambda o=options: ivf.components(share, features, DISTANCE, **o)[0])  # type: ignore[misc]
        edges, measured = said["recall.edges"], said["recall.found"] / max(1, said["recall.edges"])
        name = f"{probes} probes" + (" (shipped)" if probes == SHIPPED else "")
        found = f"{pairs(roots) / whole:.4f} | {measured:.4f} | {said['recall.queries']:,} | {edges:,}"
        print(f"| {name} | {rows:,} | {dim} | {cells} | {found} |", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
