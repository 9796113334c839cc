"""Time the exact join on a GPU against the product that it is built on: python tools/bench/gpu.py [rows ...].

First the rate of the GPU's own bfloat16 product, alone and of two blocks as the join has them. Then the join of unit
rows with 10 % planted duplicates (cosine 0.86 to 0.96), with whole rows and with shadows, each by the fused kernel and
by torch's products, best of two after one to warm up. A join's rate counts n^2 d FLOP, whatever it is spared. Its time
is that from the first block made ready to the end; what goes before (lengths, rows of equal bytes) stands beside it.
All sets must be the same, and those of a small join those of the CPU. Prints markdown tables.

Needs NumPy, PyArrow, torch with CUDA and, for the kernel, Triton; no network, MPI or configuration. Without a GPU it
runs as a rehearsal on the CPU, of as many rows as it is told.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import numpy.typing as npt
import torch

from toolkit.data.world import ALONE
from toolkit.dedup.exact import squares
from toolkit.dedup.forest import Forest
from toolkit.dedup.join import Block, Slab, flops
from toolkit.dedup.ledger import Ledger
from toolkit.dedup.ring import components
from toolkit.dedup.screens.choice import SAMPLE_ROWS
from toolkit.dedup.screens.cpu import Cpu
from toolkit.dedup.screens.cuda import CAPACITY, LENGTHS, Cuda, Finder, Products, agree, gpu
from toolkit.dedup.screens.shadow import Directions, principal
from toolkit.dedup.share import Share, block_rows
from toolkit.dedup.subset import Nowhere

DISTANCE = 0.1
DIM = 768
ROWS = (250_000, 1_000_000)
# Other ways to cut the kernel's work, one change at a time.
SHAPES = ({"stages": 3}, {"group": 4}, {"group": 16}, {"columns": 128, "warps": 4, "stages": 3})
GPU = gpu(0)
DEVICE = GPU or torch.device("cpu")


def planted(rows: int, dim: int, share: float = 0.1) -> npt.NDArray[np.float16]:
    """Return unit rows (rows, dim) of which the last `share` are noisy copies of the first, made on the GPU."""
    made = torch.Generator(DEVICE).manual_seed(0)
    result = np.empty((rows, dim), dtype=np.float16)
    copies = int(rows * share)
    for start in range(0, rows, 100_000):
        size = min(100_000, rows - start)
        values = torch.randn((size, dim), generator=made, device=DEVICE)
        values /= torch.linalg.vector_norm(values, dim=1, keepdim=True)
        result[start : start + size] = values.half().cpu().numpy()
    for start in range(0, copies, 100_000):
        part = slice(start, min(start + 100_000, copies))
        values = torch.from_numpy(result[part]).to(DEVICE).float()
        noise = torch.randn(values.shape, generator=made, device=DEVICE) / dim**0.5
        values += noise * (0.3 + 0.3 * torch.rand((len(values), 1), generator=made, device=DEVICE))
        values /= torch.linalg.vector_norm(values, dim=1, keepdim=True)
        result[rows - copies + part.start : rows - copies + part.stop] = values.half().cpu().numpy()
    return result


def rest() -> None:
    """Wait for the GPU."""
    if GPU is not None:
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], times: int = 1) -> float:
    """Return how long the work takes, the GPU's part included."""
    rest()
    start = time.perf_counter()
    for _ in range(times):
        work()
    rest()
    return (time.perf_counter() - start) / times


def bare(rows: int, values: int) -> float:
    """Return the FLOP/s of a bfloat16 product (rows, values) x (values, rows): best of five tens."""
    left, right = (torch.randn((rows, values), device=DEVICE).bfloat16() for _ in range(2))
    scores = torch.empty((rows, rows), dtype=torch.bfloat16, device=DEVICE)
    seconds(lambda: torch.mm(left, right.T, out=scores), 3)
    return 2.0 * rows * rows * values / min(seconds(lambda: torch.mm(left, right.T, out=scores), 10) for _ in range(5))


def tile(finder: Finder, rows: int, values: int) -> float:
    """Return the FLOP/s of one tile without an edge, threshold included, asked for one after the other."""
    left, right = (torch.randn((rows, values), device=DEVICE).bfloat16() for _ in range(2))
    low = 20.0 * values**0.5  # beyond any score of random rows

    def work() -> None:
        codes = finder.start(left, right, low, False)()
        assert codes is not None and not len(codes)

    seconds(work, 3)
    return 2.0 * rows * rows * values / min(seconds(work, 10) for _ in range(5))


class Watched:
    """A screen that takes down when the join asked for the first block."""

    def __init__(self, screen: Cuda) -> None:
        self._screen = screen
        self.tile_rows, self.panel_rows, self.told = screen.tile_rows, screen.panel_rows, screen.told
        self.began = 0.0

    def ready(self, slab: Slab) -> Block:
        """Return the block, made ready."""
        self.began = self.began or time.perf_counter()
        return self._screen.ready(slab)

    def ahead(self, left: Block, right: Block) -> None:
        """Start on a tile."""
        self._screen.ahead(left, right)

    def suspects(self, left: Block, right: Block) -> Any:
        """Return the pairs."""
        return self._screen.suspects(left, right)


def join(rows: npt.NDArray[np.float16], screen: Any) -> Forest:
    """Join all rows in this process."""
    share = Share(ALONE, len(rows), block_rows(len(rows)))
    ledger = Ledger(share, rows.shape[1], DISTANCE, Nowhere)
    return components(share, rows, DISTANCE, ledger, screen=screen)[0]


def timed(rows: npt.NDArray[np.float16], screen: Cuda, times: int) -> tuple[float, float, npt.NDArray[Any]]:
    """Return the least seconds of the join and of what goes before it, and the roots."""
    taken = []
    for _ in range(times):
        watched, begin = Watched(screen), time.perf_counter()
        roots = join(rows, watched).parent
        rest()
        end = time.perf_counter()
        taken.append((end - watched.began, watched.began - begin))
    return *min(taken), roots


def finders(width: int) -> dict[str, Finder]:
    """Return what finds pairs here; why there is no kernel is printed."""
    found: dict[str, Finder] = {"products": Products(DEVICE)}
    try:
        fused = kernel()
        if not agree(fused, found["products"], DEVICE, width):
            raise ValueError("the kernel does not find what torch finds")
        return {"kernel": fused, **found}
    except Exception as error:  # whatever Triton raises: the table goes on without it
        print(f"\nno kernel: {error!r:.500}\n")
        return found


def kernel(**shape: int) -> Finder:
    """Return the fused kernel, in another shape where told."""
    if GPU is None:
        raise ValueError("there is no GPU")
    from toolkit.dedup.screens.kernel import HOPPER, Fused

    return Fused(GPU, CAPACITY, HOPPER._replace(**shape))


def directions(rows: npt.NDArray[np.float16], count: int) -> Directions:
    """Return directions of a sample, as the toolkit finds them."""
    sample = rows[:: max(1, len(rows) // (SAMPLE_ROWS // 2))]
    return principal(Slab(np.arange(len(sample)), sample, squares(sample)).unit(), count)


def rates() -> float:
    """Print the rates of products and return the best that the device reaches with rows of DIM values."""
    size, block = (8192, 16_384) if GPU is not None else (512, 1024)
    shown = [("torch.mm", size, size, bare(size, size)), ("torch.mm", block, DIM, bare(block, DIM))]
    for width in (DIM, 256):
        shown += [
            (f"one tile, {name}", block, width, tile(finder, block, width)) for name, finder in finders(width).items()
        ]
    for shape in SHAPES if GPU is not None else ():
        name = "one tile, kernel with " + ", ".join(f"{value} {what}" for what, value in shape.items())
        with suppress(Exception):  # too much for this chip
            shown.append((name, block, DIM, tile(kernel(**shape), block, DIM)))
    print("| work | rows | values | TFLOP/s |\n| --- | --- | --- | --- |")
    for name, rows, values, rate in shown:
        print(f"| {name} | {rows:,} | {values:,} | {rate / 1e12:.1f} |")
    return max(rate for name, *_, rate in shown if name == "torch.mm")


def joins(counts: tuple[int, ...], top: float) -> None:
    """Print how fast joins are, and how much of the product's rate that is."""
    head = ("finder", "rows", "values seen", "before, s", "join, s", "rows/s", "TFLOP/s", "of torch.mm", "sets")
    print(f"\n| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for count in counts:
        rows = planted(count, DIM)
        seen: set[bytes] = set()
        for length in (None, LENGTHS[1]):
            short = None if length is None else directions(rows, length)
            width = Cuda(DIM, DISTANCE, short, DEVICE, Products(DEVICE)).width
            for name, finder in finders(width).items():
                screen = Cuda(DIM, DISTANCE, short, DEVICE, finder)
                timed(rows[: min(count, 50_000)], screen, 1)
                taken, before, roots = timed(rows, screen, 2)
                seen.add(roots.tobytes())
                rate = flops(count, DIM) / taken
                sets = int((np.bincount(roots) > 1).sum())
                cells = (f"{count:,}", screen.values, f"{before:.2f}", f"{taken:.2f}", f"{count / taken:,.0f}")
                shown = (name, *cells, f"{rate / 1e12:.1f}", f"{rate / top:.0%}", f"{sets:,}")
                print(f"| {' | '.join(map(str, shown))} |", flush=True)
        assert len(seen) == 1, "the sets are not the same"


def main(*counts: int) -> None:
    """Print the tables."""
    name = torch.cuda.get_device_name(GPU) if GPU is not None else "no GPU: a rehearsal on the CPU"
    print(f"{name}, torch {torch.__version__}, at most {CAPACITY:,} pairs listed of a tile\n")
    few = planted(20_000 if GPU is not None else 1500, DIM)
    expected = join(few, Cpu(DIM, DISTANCE)).parent
    assert (join(few, Cuda(DIM, DISTANCE, None, DEVICE)).parent == expected).all(), "not the sets of the CPU"
    joins(counts or ROWS, rates())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
