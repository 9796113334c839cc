"""The screen on a GPU: products of shadows (shadow.py) in bfloat16, looked at before they leave the chip.

A tile is as large as a block of the ring. On Hopper and later its limit stands in the product's own epilogue
(kernel.py); elsewhere cuBLAS writes pieces of the tile small enough for the L2 cache into one reused buffer, and a
maximum over their integer view tells which rows are clean. Either way a tile costs the host one look. What shadows let
through is held against whole rows in float64, and only what may still be an edge goes to the host.

Rows come as they are stored, and are made ready on the GPU in float64: so no switch of PyTorch for TF32 touches the
proofs. Pairs are handed on in order, so nothing depends on the order in which the GPU came by them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import product
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
import torch

from toolkit.dedup.exact import Half, Mask
from toolkit.dedup.join import Block, Float32, Pairs, Slab
from toolkit.dedup.screens.cpu import BITS, floor_bits, lowered, rounded
from toolkit.dedup.screens.shadow import Directions, error, principal, told

Codes: TypeAlias = torch.Tensor  # pairs of a tile of n columns, row * n + column (p,)

# 16,384 x 16,384 scores of 768 values are 0.5 ms at 790 TFLOP/s, an H100's rate: long enough to hide what a tile costs
# the host, a fraction of a millisecond (reckoned, not measured). Both blocks are 50 MB, as much as the L2 cache. The
# ring has no larger blocks up to 134 million rows.
BLOCK_ROWS = 16_384
PANEL_BYTES = 2 << 30  # on the GPU, and as much on the host, where the ring keeps these rows as they are stored
PIECE_ROWS = 4096  # 4,096 x 4,096 scores in bfloat16 are 32 MB: they stay in an L2 of 40 (A100) to 60 MB (H200)
CAPACITY = 1 << 20  # pairs of one tile that are listed at most, 4 MB, on the host 16; above it the tile is cut
CHECKED_VALUES = 1 << 23  # values of listed pairs held against each other at once: 128 MB in float64
LEAST = 2.0**-10  # a limit below it names nearly all pairs, and GPUs may take denormal numbers for zero
ALIGNED = 8  # 16 bytes, to which tensor cores and their copy engine want rows to be aligned
SLACK = 1e-9  # more than float64 loses in a sum of 2^17 products, here and in the edge's definition
# Holding a listed pair of d values against each other moves 4 d bytes at some 1 TB/s, as long as this many scores.
PAIR_SCORES = 2000
MANY = 20  # times as many rows as values: then finding the directions, d^3 steps on the host, is a small part
LENGTHS = (127, 191, 255, 383)  # directions that are tried: with the rest, multiples of the 64 values of a step


class Rows(NamedTuple):
    """What the GPU holds of a block."""

    shadows: torch.Tensor  # (m, k), padded with zeros
    stored: torch.Tensor | None  # (m, d) float16, where shadows are not the rows themselves
    scale: torch.Tensor  # (m,) float64: one over the length


class Ready:
    """Rows of a block, to be cut as the block is."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __getitem__(self, part: slice | Mask) -> Ready:
        shadows, stored, scale = self.rows
        return Ready(Rows(shadows[part], stored if stored is None else stored[part], scale[part]))


class Finder(Protocol):
    """Finds the pairs of a tile whose products reach a limit."""

    told: str  # by what, in words

    def start(self, left: torch.Tensor, right: torch.Tensor, low: float, itself: bool) -> Callable[[], Codes | None]:
        """Start on a tile; what is returned waits for its pairs, in any order, None where they are too many.

        `low` is above LEAST. Of a block with itself each pair comes once, row < column.
        """


class Cuda:
    """Screens tiles; `directions` null: whole rows; `finder` null: the fastest that works here.

    leaves: the share of pairs that it left in a trial, if there was one.
    """

    def __init__(
        self,
        dim: int,
        distance: float,
        directions: Directions | None = None,
        device: str | torch.device = "cuda",
        finder: Finder | None = None,
        *,
        leaves: float | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.values = dim if directions is None else len(directions) + 1
        self.width = -(-self.values // ALIGNED) * ALIGNED
        self.tile_rows = BLOCK_ROWS
        self.panel_rows = PANEL_BYTES // (2 * self.width + (0 if directions is None else 2 * dim) + 8)
        self._distance, self._short = distance, directions is not None
        self._error = error(directions, dim)  # shadow.off, and a little more
        self._skew = directions.skew if directions is not None else 0.0
        self._vectors = _vectors(directions).to(self.device)
        self._staging = torch.empty((BLOCK_ROWS, dim) if self._gpu else (0, dim), dtype=torch.float16)
        if self._gpu:
            self._staging = self._staging.pin_memory()
        # Answers are fetched beside the work that is already queued, not behind it.
        self._side = torch.cuda.Stream(self.device, priority=-1) if self._gpu else None  # type: ignore[no-untyped-call]
        self._ahead: deque[tuple[Block, Block, Callable[[], Codes | None]]] = deque(maxlen=2)
        self.finder = finder or best(self.device, self.width)
        name = torch.cuda.get_device_name(self.device) if self._gpu else "the CPU"
        self.told = told(directions, dim, f"in bfloat16 on {name} by {self.finder.told}", leaves)

    @property
    def _gpu(self) -> bool:
        return self.device.type == "cuda"

    def ready(self, slab: Slab) -> Block:
        """Return the rows with their shadows, and what these may be off."""
        with self._here():
            stored = self._upload(slab.rows)
            scale = 1.0 / torch.from_numpy(slab.squares).to(self.device).sqrt()
            unit = stored.double() * scale[:, None]
            short, rounding = rounded(self._cast(unit) if self._short else unit, torch.bfloat16)
            shadows = torch.zeros((len(slab), self.width), dtype=short.dtype, device=self.device)
            shadows[:, : self.values] = short
            rows = Rows(shadows, stored if self._short else None, scale)
        return Block(slab, Ready(rows), self._error + rounding)

    def _cast(self, unit: torch.Tensor) -> torch.Tensor:
        """Return shadows as shadow.cast does, (m, d) -> (m, p + 1) in float64; the rest may only be longer."""
        near = unit @ self._vectors.T
        short = (torch.linalg.vector_norm(near, dim=1) - self._error).clamp(min=0.0) ** 2 / (1.0 + self._skew)
        rest = (1.0 - short).clamp(min=0.0).sqrt()
        return torch.cat([near, rest[:, None]], dim=1)

    def _upload(self, rows: Half) -> torch.Tensor:
        """Copy stored rows to the GPU; `ready` waits for it before it returns, so the staging memory is free then."""
        host = torch.from_numpy(rows)
        if not self._gpu or len(rows) > len(self._staging):
            return host.to(self.device)
        return self._staging[: len(rows)].copy_(host).to(self.device, non_blocking=True)

    def ahead(self, left: Block, right: Block) -> None:
        """Start on the tile that `suspects` will be asked for after the next one, so that the GPU need not wait."""
        low = lowered(self._distance, self.values, left.error, right.error)
        if low > LEAST:
            self._ahead.append((left, right, self._start(left, right, low)))

    def suspects(self, left: Block, right: Block) -> Pairs | None:
        """Return the pairs that reach the lowered limit, and whose whole rows reach the limit itself."""
        with self._here():
            codes = self.listed(left, right)
            if codes is None:
                return None
            with self._aside():
                if self._short and len(codes):
                    codes = self._checked(left, right, codes)
                found = np.sort(codes.cpu().numpy()).astype(np.int64)
        return found // len(right), found % len(right)

    def listed(self, left: Block, right: Block) -> Codes | None:
        """Return the pairs whose shadows' product reaches the lowered limit; None where they are too many."""
        low = lowered(self._distance, self.values, left.error, right.error)
        if low <= LEAST:
            return None
        started = next((wait for one, other, wait in self._ahead if one is left and other is right), None)
        if started is not None:
            while self._ahead.popleft()[2] is not started:
                pass
        wait = started or self._start(left, right, low)
        with self._aside():
            return wait()

    def _start(self, left: Block, right: Block, low: float) -> Callable[[], Codes | None]:
        with self._here():
            wait = self.finder.start(left.ready.rows.shadows, right.ready.rows.shadows, low, left is right)
            done = torch.cuda.current_stream().record_event() if self._gpu else None

        def after() -> Codes | None:
            if done is not None and self._side is not None:
                self._side.wait_event(done)
            return wait()

        return after

    def _checked(self, left: Block, right: Block, codes: Codes) -> Codes:
        """Return the pairs whose whole rows may be closer than the distance."""
        ones, others = left.ready.rows, right.ready.rows
        size = max(1, CHECKED_VALUES // max(1, ones.stored.shape[1]))
        kept = [codes[:0]]
        for part in torch.split(codes, size):
            i, j = torch.div(part, len(right.slab), rounding_mode="floor").long(), (part % len(right.slab)).long()
            dots = torch.linalg.vecdot(ones.stored[i].double(), others.stored[j].double())
            kept.append(part[1.0 - dots * ones.scale[i] * others.scale[j] < self._distance + SLACK])
        return torch.cat(kept)

    def _here(self) -> AbstractContextManager[object]:
        return torch.cuda.device(self.device) if self._gpu else nullcontext()

    def _aside(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._side) if self._side is not None else nullcontext()


def _vectors(directions: Directions | None) -> torch.Tensor:
    vectors: Float32 = np.empty((0, 0), np.float32) if directions is None else directions.vectors
    return torch.from_numpy(np.ascontiguousarray(vectors)).double()


class Products:
    """Finds pairs by torch alone, piece by piece; clean rows of a piece are passed over."""

    told = "PyTorch's products"

    def __init__(self, device: torch.device, dtype: torch.dtype = torch.bfloat16, piece: int = PIECE_ROWS) -> None:
        if device.type == "cuda":  # sums of parts are to stay in float32
            torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        self._dtype, self._piece = dtype, piece
        self._scores = torch.empty(piece * piece, dtype=dtype, device=device)

    def start(self, left: torch.Tensor, right: torch.Tensor, low: float, itself: bool) -> Callable[[], Codes | None]:
        """Start on a tile: the highest score of each row of each piece; pieces below the diagonal are passed over."""
        least = floor_bits(low, self._dtype)
        lefts, rights = torch.split(left, self._piece), torch.split(right, self._piece)
        peaks = torch.zeros((len(rights), len(left)), dtype=BITS[self._dtype], device=left.device)
        for (i, one), (j, other) in product(enumerate(lefts), enumerate(rights)):
            if itself and i > j:
                continue
            scores = self._scores[: len(one) * len(other)].view(len(one), len(other))
            torch.mm(one, other.T, out=scores)
            if itself and i == j:
                scores.fill_diagonal_(-1.0)
            begin = i * self._piece
            torch.amax(scores.view(BITS[self._dtype]), dim=1, out=peaks[j, begin : begin + len(one)])
        hot = peaks >= least
        return lambda: self._listed(left, right, hot, least, itself)

    def _listed(
        self, left: torch.Tensor, right: torch.Tensor, hot: torch.Tensor, least: int, itself: bool
    ) -> Codes | None:
        """Compute the rows that are not clean once more; another order of sums is covered by the limit."""
        found, number = [torch.empty(0, dtype=torch.int64, device=left.device)], 0
        counts = hot.sum(dim=1).tolist()
        for j, other in enumerate(torch.split(right, self._piece)):
            columns = torch.arange(j * self._piece, j * self._piece + len(other), device=left.device)
            rows = torch.nonzero(hot[j]).ravel() if counts[j] else columns[:0]
            for some in torch.split(rows, self._piece):
                over = torch.mm(left[some], other.T).view(BITS[self._dtype]) >= least
                if itself:
                    over &= some[:, None] < columns
                number += int(torch.count_nonzero(over))
                if number > CAPACITY:
                    return None
                at, column = torch.nonzero(over, as_tuple=True)
                found.append(some[at] * len(right) + columns[column])
        return torch.cat(found)


def best(device: torch.device, width: int) -> Finder:
    """Return the fused kernel where it works and finds, in a trial, what torch finds; torch's products elsewhere."""
    plain = Products(device)
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (9, 0):
        return plain
    try:
        from toolkit.dedup.screens.kernel import Fused

        fused = Fused(device, CAPACITY)
        return fused if agree(fused, plain, device, width) else plain
    except Exception:  # no Triton, no compiler for its launcher, a GPU newer than it: torch can do without
        return plain


def agree(one: Finder, other: Finder, device: torch.device, width: int, rows: int = 3000) -> bool:
    """Return whether two finders give the same pairs of two blocks of `width` values, and of one with itself.

    Rows are two of `width` units each, taken in turn, so that products are 0, 1 or 2 in any arithmetic.
    """
    number = torch.arange(rows, device=device)
    values = torch.zeros((rows, width), device=device)
    values[number, number % width] += 1.0
    values[number, (number * 7 + number // width) % width] += 1.0
    left = values.to(torch.bfloat16)
    right = left[: rows - rows // 5].flip(0).contiguous()
    for tile in ((left, right, 1.5, False), (left, left, 1.5, True)):
        codes = [finder.start(*tile)() for finder in (one, other)]
        found = [None if some is None else torch.sort(some.long()).values for some in codes]
        if found[0] is None or found[1] is None or not torch.equal(found[0], found[1]):
            return False
    return True


def gpu(place: int) -> torch.device | None:
    """Return the GPU of the rank at this place of its node, None where there is no GPU; ranks take them in turn.

    Where the launcher shows each rank its own GPU alone, that is the one.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return torch.device("cuda", place % count) if count else None


def choose(rows: int, known: Slab, fresh: Slab, distance: float, device: str | torch.device) -> Cuda:
    """Return the screen that should take the least time for so many rows, counted, not timed (choice.halves)."""
    dim = known.rows.shape[1]
    lengths = [count for count in LENGTHS if count < dim] if rows >= MANY * dim and len(known) > dim else []
    longest = principal(known.unit(), max(lengths)) if lengths else None
    shorter = [longest.first(count) for count in lengths] if longest is not None else []
    tried = [Cuda(dim, distance, one, device, Products(torch.device(device))) for one in shorter]
    shares = [_passed(screen, fresh) for screen in tried]
    # The time of a tile as a multiple of that with whole rows.
    costs = [screen.width / dim + PAIR_SCORES * share for screen, share in zip(tried, shares, strict=True)]
    least = min([1.0, *costs])
    if least >= 1.0:
        return Cuda(dim, distance, None, device)
    chosen = costs.index(least)
    return Cuda(dim, distance, shorter[chosen], device, leaves=shares[chosen])


def _passed(screen: Cuda, fresh: Slab) -> float:
    """Return the share of the pairs of a tile that shadows let pass; infinite where they are too many to list."""
    middle = len(fresh) // 2
    left, right = screen.ready(fresh[:middle]), screen.ready(fresh[middle:])
    codes = screen.listed(left, right)
    return float("inf") if codes is None else len(codes) / (len(left) * len(right))
