"""Time the exact join beside what it is measured against: python tools/bench/dedup.py WHAT.

    paired  --rows 60000 --dim 768   FAISS range search, FAISS k-NN, bare products, the join with each screen, in turns
    growth  --rows 30000 60000 ...   the join alone, and the bare bfloat16 product of its half of all pairs
    after   --rows 100000            what comes after a join: who stays, and the answer for fewer rows
    command --rows 120000            `danqing stage dedup` from file to file, with 1 and 2 ranks; a script with FAISS
    scale                            what 10^8 and 10^9 rows would take, from the rates that `danqing plan` goes by

Unit rows of which 10 % are copies with noise (cosine 0.86 to 0.96), so that scores lie on both sides of the limit; with
`--cone`, rows that have much in common, with falling variance along their directions, as CLIP's do. Bare products
compute every tile of the upper triangle and look at no score. Loading and imports are apart but in `command`. All kinds
of work take turns, the best of `--repeat` counts. Prints markdown tables.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import torch

from toolkit.data.features import write
from toolkit.data.world import ALONE
from toolkit.dedup.exact import squares
from toolkit.dedup.forest import Forest
from toolkit.dedup.join import TILE_ROWS, Screen, flops
from toolkit.dedup.ledger import Ledger
from toolkit.dedup.ring import components
from toolkit.dedup.screens.choice import Single
from toolkit.dedup.screens.cpu import Cpu
from toolkit.dedup.share import Share, block_rows
from toolkit.dedup.subset import subset
from toolkit.dedup.survivors import Survivors, survivors
from toolkit.run.plain import Scratch
from toolkit.run.plan import JOIN_RATE

DISTANCE = 0.1
NEIGHBOURS = 16
AMX_RATE = 1.05e12  # one core's bf16 products, seen on another machine; the join is taken to reach 80 % of it
H200_RATE = 790e12  # bf16 products of one GPU; the join is taken to reach 60 %

Rows = npt.NDArray[np.float16]


def planted(rows: int, dim: int, share: float = 0.1, cone: bool = False) -> Rows:
    """Return unit rows (rows, dim) of which the last `share` are noisy copies of the first."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((rows, dim), dtype=np.float32)
    if cone:  # variance falls with the number of the direction; all rows share one direction: mean cosine about 0.5
        values *= (1.0 + np.arange(dim, dtype=np.float32)) ** -0.5
        values[:, 0] += np.linalg.norm(values, axis=1).mean()
        values = values @ np.linalg.qr(rng.standard_normal((dim, dim)))[0].astype(np.float32)
    copies = int(rows * share)
    noise = rng.standard_normal((copies, dim), dtype=np.float32)
    noise *= np.linalg.norm(values[:copies], axis=1, keepdims=True) / dim**0.5
    values[rows - copies :] = values[:copies] + rng.uniform(0.3, 0.6, (copies, 1)).astype(np.float32) * noise
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return values.astype(np.float16)


def bare(rows: npt.NDArray[np.float32], dtype: torch.dtype) -> None:
    """Compute every tile of the upper triangle into one buffer."""
    short = torch.from_numpy(rows).to(dtype)
    tile = torch.empty(TILE_ROWS * TILE_ROWS, dtype=dtype)
    blocks = short.split(TILE_ROWS)
    for i, left in enumerate(blocks):
        for right in blocks[i:]:
            torch.mm(left, right.T, out=tile[: len(left) * len(right)].view(len(left), len(right)))


def join(rows: Rows, screen: Screen | None = None) -> Forest:
    """Join all rows in this process."""
    share = Share(ALONE, len(rows), block_rows(len(rows)))
    with tempfile.TemporaryDirectory() as folder:
        scratch = Scratch(Path(folder))
        ledger = Ledger(share, rows.shape[1], DISTANCE, lambda: scratch)
        return components(share, rows, DISTANCE, ledger, screen=screen)[0]


def searched(rows: npt.NDArray[np.float32]) -> Forest:
    """Find all pairs by FAISS' range search over all rows, and unite them."""
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    limits, _, found = index.range_search(rows, 1.0 - DISTANCE)
    forest = Forest(len(rows))
    forest.union(np.repeat(np.arange(len(rows)), np.diff(limits.astype(np.int64))), found)
    return forest


def neighbours(rows: npt.NDArray[np.float32]) -> Forest:
    """Find each row's nearest neighbours by FAISS, and unite those inside the limit."""
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    scores, found = index.search(rows, NEIGHBOURS)
    forest = Forest(len(rows))
    near = scores > 1.0 - DISTANCE
    forest.union(np.repeat(np.arange(len(rows)), near.sum(axis=1)), found[near])
    return forest


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return how long the work takes, and its result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def best(works: dict[str, Callable[[], Any]], repeat: int) -> dict[str, tuple[float, Any]]:
    """Let all take turns, and return the least time and a result of each."""
    turns = [{name: seconds(work) for name, work in works.items()} for _ in range(repeat)]
    return {name: (min(turn[name][0] for turn in turns), turns[0][name][1]) for name in works}


def paired(rows: int, dim: int, repeat: int, cone: bool) -> None:
    """Print the table of FAISS beside the join."""
    features = planted(rows, dim, cone=cone)
    single = features.astype(np.float32)
    single /= np.linalg.norm(single, axis=1, keepdims=True)
    join(features[:30_000])  # libraries are loaded here
    works: dict[str, Callable[[], Any]] = {
        "exact join": lambda: join(features),
        "exact join, whole rows in bfloat16": lambda: join(features, Cpu(dim, DISTANCE)),
        "exact join, float32": lambda: join(features, Single(dim)),
        "bare half product, bfloat16": lambda: bare(single, torch.bfloat16),
        "bare half product, float32": lambda: bare(single, torch.float32),
        "FAISS range_search": lambda: searched(single),
        f"FAISS k-NN, k = {NEIGHBOURS}": lambda: neighbours(single),
    }
    found = best(works, repeat)
    first, exact = found["exact join"][0], found["exact join"][1].roots()
    print(f"{rows:,} x {dim}, {torch.get_num_threads()} threads{', cone' if cone else ''}\n")
    print("| work | seconds | times the join's | GFLOP/s by n^2 d | rows in another set |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, (taken, forest) in found.items():
        other = "-" if forest is None else f"{int((forest.roots() != exact).sum()):,}"
        print(f"| {name} | {taken:.2f} | {taken / first:.2f} | {flops(rows, dim) / taken / 1e9:,.0f} | {other} |")


def growth(sizes: list[int], dim: int, repeat: int, cone: bool) -> None:
    """Print how the join grows with its rows."""
    join(planted(30_000, dim))
    print(
        "| rows | join, s | whole rows in bfloat16, s | bare half product in bfloat16, s | join's share of its rate |"
    )
    print("| ---: | ---: | ---: | ---: | ---: |")
    for rows in sizes:
        features = planted(rows, dim, cone=cone)
        single = features.astype(np.float32)
        works: dict[str, Callable[[], Any]] = {
            "join": lambda features=features: join(features),
            "whole": lambda features=features: join(features, Cpu(dim, DISTANCE)),
            "bare": lambda single=single: bare(single, torch.bfloat16),
        }
        taken = {name: least for name, (least, _) in best(works, repeat).items()}
        share = f"{taken['bare'] / taken['join']:.0%} (whole rows {taken['bare'] / taken['whole']:.0%})"
        print(f"| {rows:,} | {taken['join']:.2f} | {taken['whole']:.2f} | {taken['bare']:.2f} | {share} |", flush=True)


def after(rows: int, dim: int, repeat: int) -> None:
    """Print the time of choosing survivors, and of the answer for fewer rows and a smaller distance (subset)."""
    features = planted(rows, dim)
    ids = np.random.default_rng(1).integers(256, size=(rows, 16), dtype=np.uint8)
    share, roots = Share(ALONE, rows, block_rows(rows)), join(features).roots()
    answer = survivors(share, roots, ids, squares(features), features)
    whole, fewer = np.ones(rows, np.bool_), answer.dropped | (answer.size == 1)  # each set loses the row that stayed

    def again(alive: npt.NDArray[np.bool_], distance: float) -> Survivors:
        return subset(answer, alive, ids, features.__getitem__, joined=DISTANCE, distance=distance)

    works: dict[str, Callable[[], Any]] = {
        "the join itself": lambda: join(features),
        "who stays": lambda: survivors(share, roots, ids, squares(features), features),
        "subset: each set has lost a row": lambda: again(fewer, DISTANCE),
        "subset: half the distance": lambda: again(whole, DISTANCE / 2),
    }
    print(f"{rows:,} x {dim}, {int((answer.size > 1).sum()):,} rows in {int((~fewer).sum()):,} sets\n")
    print("| work | seconds |\n| --- | ---: |")
    for name, (taken, _) in best(works, repeat).items():
        print(f"| {name} | {taken:.2f} |")


# What a user would write: from the file of features to the roots of its sets.
SCRIPT = """
import sys; import faiss, h5py, numpy as np; from toolkit.dedup.forest import Forest
rows = h5py.File(sys.argv[1])["image"][...].astype(np.float32); rows /= np.linalg.norm(rows, axis=1, keepdims=True)
index = faiss.IndexFlatIP(rows.shape[1]); index.add(rows); forest = Forest(len(rows))
if sys.argv[2] == "range":
    limits, _, found = index.range_search(rows, 0.9)
    forest.union(np.repeat(np.arange(len(rows)), np.diff(limits.astype(np.int64))), found)
else:
    scores, found = index.search(rows, 16); near = scores > 0.9
    forest.union(np.repeat(np.arange(len(rows)), near.sum(axis=1)), found[near])
np.save(sys.argv[3], forest.roots())
"""


def command(rows: int, dim: int, repeat: int) -> None:
    """Print the whole command's time beside that of a script with FAISS."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "features.h5", Path(folder) / "sets.parquet"
        ids = np.random.default_rng(1).integers(256, size=(rows, 16), dtype=np.uint8)
        with source.open("x+b") as sink:
            write(sink, ids=ids, image=[planted(rows, dim)], dim=dim)
        danqing = str(Path(sys.executable).with_name("danqing"))
        mpiexec = str(Path(sys.executable).with_name("mpiexec"))
        ours = [danqing, "stage", "dedup", "--input", str(source), "--output", str(out)]
        script = [sys.executable, "-c", SCRIPT, str(source)]
        works = {
            "danqing stage dedup": ours,
            "mpiexec -n 2 danqing stage dedup": [mpiexec, "-n", "2", *ours],
            "script with FAISS range_search": [*script, "range", str(Path(folder) / "a.npy")],
            "script with FAISS k-NN": [*script, "k", str(Path(folder) / "b.npy")],
        }

        def run(line: list[str]) -> None:
            out.unlink(missing_ok=True)
            subprocess.run(line, check=True, capture_output=True)

        found = best({name: lambda line=line: run(line) for name, line in works.items()}, repeat)  # type: ignore[misc]
        first = found["danqing stage dedup"][0]
        print(f"{rows:,} x {dim}, start-up, reading and writing included\n")
        print("| command | seconds | times ours |\n| --- | ---: | ---: |")
        for name, (taken, _) in found.items():
            print(f"| {name} | {taken:.1f} | {taken / first:.1f} |")


# Machines, and their floating point operations a second in the join; where the number comes from stands in the table.
MACHINES = {
    "16 nodes of 112 cores, AVX-512 with bf16": 16 * 112 * JOIN_RATE,
    "16 nodes of 112 cores with AMX": 16 * 112 * 0.8 * AMX_RATE,
    "8 H200": 8 * 0.6 * H200_RATE,
    "64 H200": 64 * 0.6 * H200_RATE,
}


def scale(dim: int) -> None:
    """Print the hours of joins that nobody has run here."""
    print("| machines | PFLOP/s | 10^8 rows, h | 10^9 rows, h |\n| --- | ---: | ---: | ---: |")
    for name, rate in MACHINES.items():
        hours = " | ".join(f"{flops(rows, dim) / rate / 3600:,.2f}" for rows in (10**8, 10**9))
        print(f"| {name} | {rate / 1e15:.2f} | {hours} |")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["paired", "growth", "after", "command", "scale"], nargs="?", default="paired")
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000])
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--cone", action="store_true")
    given = parser.parse_args()
    if given.what == "scale":
        scale(given.dim)
    elif given.what == "growth":
        growth(given.rows, given.dim, given.repeat, given.cone)
    else:
        for rows in given.rows:
            if given.what == "paired":
                paired(rows, given.dim, given.repeat, given.cone)
            elif given.what == "after":
                after(rows, given.dim, given.repeat)
            else:
                command(rows, given.dim, given.repeat)


if __name__ == "__main__":
    main()
