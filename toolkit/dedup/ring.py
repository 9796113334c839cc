"""The join over ranks: blocks travel half a ring, every pair of blocks meets once, forests merge in a tree.

Each rank joins the blocks that it holds. Then, lap by lap, each rank's next block goes from rank to rank, half way
round, and is joined at each stop with the blocks held there; while it is, the next one is on its way already. One rank
is a ring without hops. Pairs that the ledger knows are not joined again.

Blocks of earlier rows never travel, and never meet each other. Where there are some, the others go the whole way round,
and in the second half of it meet earlier blocks alone.

Promise: the sets depend on the rows alone. Memory of a rank, beside its rows and some 140 bytes for each: three blocks
(one coming, one at work, one going), one panel of rows made ready for the screen (up to 160 MB on a CPU, 2 GB on a GPU)
and two pieces of it, one tile, the ledger's table, and 16 bytes for each union not yet saved. Memory of a node: 4 bytes
(8 from 2^31 on) for every row of the join (node.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement, product
from math import isqrt

import numpy as np

from toolkit.data.stage import Stopped
from toolkit.data.world import Transfer, World
from toolkit.dedup.exact import Float, Half, Mask, squares
from toolkit.dedup.forest import Forest
from toolkit.dedup.join import Block, Screen, Slab, begun, flops, tile
from toolkit.dedup.ledger import SAVE_FLOPS, SAVES, Ledger
from toolkit.dedup.node import NodeForest, merge, seat
from toolkit.dedup.screens.choice import SAMPLE_ROWS, choose
from toolkit.dedup.share import Share, ignore, never, swap
from toolkit.dedup.twins import twins


def components(
    share: Share,
    rows: Half,
    distance: float,
    ledger: Ledger,
    *,
    screen: Screen | None = None,
    device: str = "auto",
    tell: Callable[[list[str]], None] = lambda screens: None,
    advance: Callable[[int], None] = ignore,
    stopping: Callable[[], bool] = never,
) -> tuple[Forest, Float]:
    """Return the forest of near-duplicates of all rows, and the squared lengths (m,) of this rank's rows (m, d).

    A row that is zero or not finite has no direction: it has no edge, and its squared length is 0 or NaN. Raises
    Stopped on all ranks, with the ledger saved, where one is `stopping`. `advance` hears of as many rows as the join
    has, `tell` of the screens that ranks have chosen, each once, and of ranks that can not share memory. Edges between
    two earlier rows are not looked for. Those of equal bytes are united all the same: what has an edge to one has it to
    the other.
    """
    forest, lengths, chosen = collapsed(share, rows)
    forest.news()  # found again by every attempt
    ledger.load(forest)
    held = Held(share, rows, lengths, chosen)
    work = isqrt((share.rows + 2 * share.earlier) * share.rows)  # rows of as much work
    if screen is None:
        screen = choose(work, held.sample(SAMPLE_ROWS), distance, device, seat(share.world))
    tell([*forest.told, *dict.fromkeys(share.world.allgather(screen.told))])
    tiles = Tiles(screen, distance, forest, ledger, stopping)
    Ring(share, held, tiles, Progress(share, held, advance)).run()
    merge(share.world, forest)
    return forest, lengths


def collapsed(share: Share, rows: Half) -> tuple[NodeForest, Float, Mask]:
    """Return a forest of sets of equal rows, and of this rank's rows (m, d) the squared lengths and which take part.

    Of equal rows the first takes part; a row that is zero or not finite never does.
    """
    lengths = squares(rows)
    first, numbers = twins(share, rows), share.numbers
    forest = NodeForest(share.world, share.total)
    copies = (lengths > 0) & (first != numbers)
    forest.union(numbers[copies], first[copies])
    return forest, lengths, (lengths > 0) & ~copies


class Held:
    """The blocks that this rank holds, each without the rows that take no part."""

    def __init__(self, share: Share, rows: Half, lengths: Float, chosen: Mask) -> None:
        self._share, self._rows, self._lengths, self._chosen = share, rows, lengths, chosen
        self.dim = rows.shape[1]
        self.sizes = [*self._sizes(share.held), *self._sizes(share.kept)]  # of all blocks of all ranks

    def _sizes(self, held: Callable[[int], range]) -> list[int]:
        world = self._share.world
        own = [int(np.count_nonzero(self._chosen[self._share.part(block)[1]])) for block in held(world.rank)]
        return [size for sizes in world.allgather(own) for size in sizes]

    @property
    def count(self) -> int:
        """Return how many of the join's rows take part, on all ranks."""
        return sum(self.sizes[: self._share.blocks])

    @property
    def earlier(self) -> int:
        """Return how many earlier rows take part, on all ranks."""
        return sum(self.sizes[self._share.blocks :])

    def __getitem__(self, block: int) -> Slab:
        first, part = self._share.part(block)
        local = part.start + np.flatnonzero(self._chosen[part])
        taken = part if len(local) == part.stop - part.start else local  # a slice is no copy
        return Slab(local + (first - part.start), self._rows[taken], self._lengths[taken])

    def sample(self, count: int) -> Slab:
        """Return up to `count` of the rows of all ranks, from all over; all ranks come here together."""
        local, world = np.flatnonzero(self._chosen), self._share.world
        most = min(-(-count // world.size), len(local))
        local = local[np.linspace(0, max(0, len(local) - 1), most, dtype=np.int64)]
        return everywhere(world, Slab(self._share.numbers[local], self._rows[local], self._lengths[local]))

    def empty(self, block: int) -> Slab:
        """Return room for a block that another rank holds."""
        size = self.sizes[block]
        return Slab(np.empty(size, np.int64), np.empty((size, self.dim), np.float16), np.empty(size))


def everywhere(world: World, slab: Slab) -> Slab:
    """Return the rows of all ranks on every rank."""
    return Slab(*(np.concatenate(swap(world, [a] * world.size)) for a in (slab.numbers, slab.rows, slab.squares)))


@dataclass
class Move:
    """A block that comes in while another goes out."""

    block: int | None = None  # the one that comes, if any
    slab: Slab | None = None
    transfers: list[Transfer] = field(default_factory=list)

    def poke(self) -> None:
        """Let it go on."""
        for transfer in self.transfers:
            transfer.poke()

    def wait(self) -> None:
        """Return when both are through."""
        for transfer in self.transfers:
            transfer.wait()


@dataclass
class Tiles:
    """Joins pairs of blocks tile by tile, and takes down those that are finished."""

    screen: Screen
    distance: float
    forest: Forest
    ledger: Ledger
    stopping: Callable[[], bool]

    def inner(self, panel: dict[int, list[Block]], poke: Callable[[], None]) -> None:
        """Join the blocks of a panel with each other and themselves."""
        for one, other in combinations_with_replacement(panel, 2):
            if self.ledger.has(one, other) or self.stopping():
                continue
            lefts, rights = panel[one], panel[other]
            both = combinations_with_replacement(lefts, 2) if one == other else product(lefts, rights)
            for left, right in begun(self.screen, both):
                tile(self.screen, left, right, self.distance, self.forest)
                poke()
            self._note(one, other, lefts, sum(map(len, rights)))

    def meet(self, panel: dict[int, list[Block]], block: int, slab: Slab, poke: Callable[[], None]) -> None:
        """Join the blocks of a panel with another one; where asked to stop, none of these pairs is taken down."""
        todo = [one for one in panel if not self.ledger.has(one, block)]
        lefts = [left for one in todo for left in panel[one]]
        both = ((left, right) for right in self.ready(slab if todo else slab[:0]) for left in lefts)
        for left, right in begun(self.screen, both):
            if self.stopping():
                return
            tile(self.screen, left, right, self.distance, self.forest)
            poke()
        for one in todo:
            self._note(one, block, panel[one], len(slab))

    def ready(self, slab: Slab) -> Iterator[Block]:
        """Give the pieces of a block, made ready for the screen."""
        return map(self.screen.ready, slab.cut(self.screen.tile_rows))

    def _note(self, one: int, other: int, lefts: Sequence[Block], rights: int) -> None:
        dim: int = lefts[0].slab.rows.shape[1] if lefts else 0
        self.ledger.note(one, other, 2 * sum(map(len, lefts)) * rights * dim)


class Ring:
    """One rank's way through the join; all ranks take the same number of turns, whatever they hold."""

    def __init__(self, share: Share, held: Held, tiles: Tiles, progress: Progress) -> None:
        self.share, self.held, self.tiles, self.progress = share, held, tiles, progress
        ranks = range(share.world.size)
        self.own, self.kept = share.held(share.world.rank), share.kept(share.world.rank)
        self.most = max(len(share.held(rank)) for rank in ranks)
        self.most_kept = max(len(share.kept(rank)) for rank in ranks)
        # Every rank has chosen its own screen; turns are taken together, so the smallest panel counts for all.
        panel = min(share.world.allgather(tiles.screen.panel_rows))
        self.span = max(1, panel // share.block)  # blocks in a panel
        self.span_kept = max(1, panel // share.earlier_block)
        self.limit = max(SAVE_FLOPS, flops(held.count, held.dim, held.earlier) // SAVES)
        self._ready: tuple[range, dict[int, list[Block]]] = (range(0), {})

    def run(self) -> None:
        """Join every pair of blocks that falls to this rank; raises Stopped on all where one is asked to stop."""
        hops = list(laps(self.most, self.share.world.size, whole=self.share.earlier > 0))
        move = self._start(hops[0], None) if hops else Move()
        try:
            self._home(move.poke)
            for hop, after in zip(hops, [*hops[1:], None], strict=False):
                move.wait()
                block, slab = move.block, move.slab
                move = self._start(after, slab) if after else Move()
                if block is not None and slab is not None:
                    self._visit(hop[1], block, slab, move.poke)
                self._turn()
        except Stopped:
            move.wait()  # the other side waits for it too
            raise
        self.progress.finish()

    def _home(self, poke: Callable[[], None]) -> None:
        """Join what this rank holds."""
        for start in range(0, self.most, self.span):
            panel = self._panel(self.own[start : start + self.span])
            self.tiles.inner(panel, poke)
            self.progress.add(panel, list(panel), half=True)
            self._turn()
            for at in range(start + self.span, self.most):
                if at < len(self.own):
                    self.tiles.meet(panel, self.own[at], self.held[self.own[at]], poke)
                    self.progress.add(panel, [self.own[at]])
                self._turn()
        for start, at in product(range(0, self.most_kept, self.span_kept), range(self.most)):
            blocks = self.kept[start : start + self.span_kept]
            if blocks and at < len(self.own):
                self._meet(blocks, self.own[at], self.held[self.own[at]], poke)
            self._turn()

    def _visit(self, step: int, block: int, slab: Slab, poke: Callable[[], None]) -> None:
        """Join a block that has come `step` hops with those that this rank holds."""
        half, ranks = 2 * step, self.share.world.size
        for start in range(0, len(self.own) if half <= ranks else 0, self.span):
            blocks = self.own[start : start + self.span]
            self._meet(blocks, block, slab, poke, lambda one: half < ranks or falls(one, block))
        for start in range(0, len(self.kept), self.span_kept):
            self._meet(self.kept[start : start + self.span_kept], block, slab, poke)

    def _meet(
        self,
        blocks: range,
        block: int,
        slab: Slab,
        poke: Callable[[], None],
        chosen: Callable[[int], bool] = lambda block: True,
    ) -> None:
        """Join a block with those of a panel that are chosen."""
        panel = {one: ready for one, ready in self._panel(blocks).items() if chosen(one)}
        self.tiles.meet(panel, block, slab, poke)
        self.progress.add(panel, [block])

    def _panel(self, blocks: range) -> dict[int, list[Block]]:
        """Return some blocks that this rank holds, made ready; the last panel is kept, often it is the only one."""
        if self._ready[0] != blocks:
            self._ready = (range(0), {})
            self._ready = (blocks, {block: list(self.tiles.ready(self.held[block])) for block in blocks})
        return self._ready[1]

    def _start(self, hop: tuple[int, int], visitor: Slab | None) -> Move:
        """Start the transfers of a hop: what came last, or a block held here, goes on; the next one comes."""
        lap, step = hop
        share, world = self.share, self.share.world
        leaving = visitor
        if step == 1:
            leaving = self.held[self.own[lap]] if lap < len(self.own) else None
        theirs = share.held((world.rank + step) % world.size)
        block = theirs[lap] if lap < len(theirs) else None
        slab = self.held.empty(block) if block is not None else None
        before, after = (world.rank - 1) % world.size, (world.rank + 1) % world.size
        coming = [world.receive(array, after) for array in _arrays(slab)]
        return Move(block, slab, coming + [world.send(array, before) for array in _arrays(leaving)])

    def _turn(self) -> None:
        """Agree whether to stop, or to save what is done."""
        ledger = self.tiles.ledger
        news = self.share.world.allgather((self.tiles.stopping(), ledger.flops))
        stop = any(stopping for stopping, _ in news)
        if stop or sum(done for _, done in news) > self.limit:
            ledger.save(self.tiles.forest)
        if stop:
            raise Stopped("the join was asked to stop, and has kept the blocks that it had joined")


def _arrays(slab: Slab | None) -> list[np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    return [slab.numbers, slab.rows, slab.squares] if slab is not None and len(slab) else []


def laps(blocks: int, ranks: int, *, whole: bool = False) -> Iterator[tuple[int, int]]:
    """Give the hops in order, as (lap, step): in lap k the k-th block of each rank makes half a round, or all of it."""
    return product(range(blocks), range(1, ranks if whole else ranks // 2 + 1))


def falls(held: int, visitor: int) -> bool:
    """Return whether a pair of blocks of opposite ranks, which see each other's, falls to the one that holds `held`."""
    return ((held + visitor) % 2 == 0) == (held < visitor)


class Progress:
    """Tells of the rows of the join as this rank's pairs go by; its share stands for the others'."""

    def __init__(self, share: Share, held: Held, advance: Callable[[int], None]) -> None:
        self._sizes, self._rows, self._advance = held.sizes, share.rows, advance
        self._told, self._done = 0, 0.0
        own, kept = (sum(held.sizes[b] for b in of(share.world.rank)) for of in (share.held, share.kept))
        self._total = (own / 2 + kept) * held.count

    def add(self, ones: Sequence[int] | dict[int, list[Block]], others: Sequence[int], half: bool = False) -> None:
        """Take in that blocks have met others."""
        met = sum(self._sizes[one] for one in ones) * sum(self._sizes[other] for other in others)
        self._done += met / 2 if half else met
        self._tell(int(self._rows * min(1.0, self._done / self._total)) if self._total else 0)

    def finish(self) -> None:
        """Tell of the rest."""
        self._tell(self._rows)

    def _tell(self, rows: int) -> None:
        if rows > self._told:
            self._advance(rows - self._told)
            self._told = rows
