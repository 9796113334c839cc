"""What the tests of toolkit.dedup compare with, and the rows they are given."""

from __future__ import annotations

import io
import math
import queue
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from toolkit.data.stage import Stopped
from toolkit.data.world import ALONE
from toolkit.dedup import join, node
from toolkit.dedup.ledger import Ledger
from toolkit.dedup.ring import components
from toolkit.dedup.share import Share
from toolkit.dedup.survivors import Survivors, survivors

STUCK_S = 240  # ends a deadlock; on a loaded machine a rank may wait seconds for its turn
LOOK_S = 0.1  # between two looks whether the sender has failed


class Reference:
    """The definition of near-duplicates in Python integers, pair by pair: slow, plain, and independent."""

    @staticmethod
    def whole(rows: np.ndarray) -> list[list[int]]:
        """Rows as integers of 2^-24."""
        return [[int(float(value) * 2**24) for value in row] for row in rows]

    @staticmethod
    def product(x: list[int], y: list[int]) -> float:
        """x.y, rounded once."""
        return float(sum(a * b for a, b in zip(x, y, strict=True))) / 2**48

    @staticmethod
    def distance(x: list[int], y: list[int]) -> float:
        length = math.sqrt(Reference.product(x, x) * Reference.product(y, y))
        return 1.0 - (Reference.product(x, y) / length if length else 0.0)

    @staticmethod
    def sets(rows: np.ndarray, limit: float, earlier: int = 0) -> list[int]:
        """The smallest row number of each row's set; the last rows are earlier ones and have no edges among them."""
        points = Reference.whole(rows)
        root = list(range(len(points)))
        for i, x in enumerate(points):
            for j in range(min(i, len(points) - earlier)):
                if any(x) and any(points[j]) and root[i] != root[j] and Reference.distance(x, points[j]) < limit:
                    low, high = sorted((root[i], root[j]))
                    root = [low if r == high else r for r in root]
        return root

    @staticmethod
    def choose(
        rows: np.ndarray, root: list[int], ids: list[bytes], keep: str, earlier: int = 0, worth: Any = ()
    ) -> list[tuple[int, int, float]]:
        """(row of the survivor, size of the set, distance to the centroid) of each row but the last, earlier ones."""
        points = Reference.whole(rows)
        result: list[tuple[int, int, float]] = [(i, 1, 0.0) for i in range(len(points))]
        for first in set(root):
            members = [i for i, r in enumerate(root) if r == first]
            if len(members) == 1:
                continue
            centroid = [sum(values) for values in zip(*(points[i] for i in members), strict=True)]
            nano = {i: math.floor(Reference.distance(points[i], centroid) * 1e9 + 0.5) for i in members}
            plain = keep == "first" or len(members) == 2
            known = [i for i in members if i >= len(points) - earlier]
            cost = [0 if plain or known else nano.get(i, 0) for i in range(len(points))]
            if keep == "best" and not known:
                cost = [math.inf if math.isnan(value) else -value for value in worth]
            stays = min(known or members, key=lambda i: (cost[i], ids[i], i))
            for i in members:
                result[i] = (stays, len(members), nano[i] / 1e9)
        return result[: len(points) - earlier]


class Made:
    """Rows for the tests, from a generator that the caller seeds."""

    @staticmethod
    def unit(rows: np.ndarray) -> np.ndarray:
        """Rows of length one, stored as float16."""
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)

    @staticmethod
    def scattered(rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
        return Made.unit(rng.standard_normal((count, dim)))

    @staticmethod
    def clustered(rng: np.random.Generator, count: int, dim: int, spread: float, centres: int = 4) -> np.ndarray:
        """Rows around a few centres; the cosine of two of one cluster is about 1 / (1 + spread^2)."""
        middle = rng.standard_normal((centres, dim))
        noise = rng.standard_normal((count, dim))
        return Made.unit(middle[rng.integers(centres, size=count)] + spread * noise)

    @staticmethod
    def chained(count: int, dim: int, angle: float) -> np.ndarray:
        """Rows that each lie `angle` radians from the next, on a circle in the first two values."""
        rows = np.zeros((count, dim))
        rows[:, 0], rows[:, 1] = np.cos(angle * np.arange(count)), np.sin(angle * np.arange(count))
        return rows.astype(np.float16)

    @staticmethod
    def some_ids(rng: np.random.Generator, count: int) -> np.ndarray:
        return rng.integers(256, size=(count, 16), dtype=np.uint8)


class Threads:
    """A world of ranks that are threads of this process.

    As in MPI, the n-th array that one rank sends another fills the n-th that the other began to receive, however late
    either waits.
    """

    def __init__(self, rank: int, size: int, common: Common) -> None:
        self.rank, self.size, self._common = rank, size, common

    def allgather(self, value: Any) -> list[Any]:
        self._common.values[self.rank] = value
        self._common.barrier.wait()
        found = list(self._common.values)
        self._common.barrier.wait()
        return found

    def bcast(self, value: Any) -> Any:
        return self.allgather(value)[0]

    def send(self, array: np.ndarray, to: int) -> Late:
        assert array.flags.c_contiguous
        assert to != self.rank
        before = array.tobytes()
        self._common.post(self.rank, to).put(before)

        def check() -> None:
            assert array.tobytes() == before, "an array was changed on its way"

        return Late(check)

    def receive(self, array: np.ndarray, source: int) -> Late:
        assert array.flags.c_contiguous
        box = self._common.expect(source, self.rank)

        def take() -> None:
            data = self._common.take(box)
            assert len(data) == array.nbytes
            array.reshape(-1).view(np.uint8)[:] = np.frombuffer(data, np.uint8)

        return Late(take)


class Late:
    """A transfer that happens when it is waited for."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act: Callable[[], None] | None = act

    def poke(self) -> None:
        pass

    def wait(self) -> None:
        if self._act:
            act, self._act = self._act, None
            act()


class Common:
    """What the ranks share: values that meet at a barrier, and a box for each array on its way."""

    def __init__(self, size: int) -> None:
        self.values: list[Any] = [None] * size
        self.barrier = threading.Barrier(size, timeout=STUCK_S)
        self.boxes: defaultdict[tuple[int, int, int], queue.Queue[bytes]] = defaultdict(queue.Queue)
        self._lock = threading.Lock()
        self._posted: Counter[tuple[int, int]] = Counter()
        self._expected: Counter[tuple[int, int]] = Counter()

    def post(self, source: int, to: int) -> queue.Queue[bytes]:
        return self._next(self._posted, source, to)

    def expect(self, source: int, to: int) -> queue.Queue[bytes]:
        return self._next(self._expected, source, to)

    def take(self, box: queue.Queue[bytes]) -> bytes:
        """What is in the box as soon as it is; raises BrokenBarrierError where a rank has failed that may owe it."""
        end = time.monotonic() + STUCK_S
        while time.monotonic() < end:
            with suppress(queue.Empty):
                return box.get(timeout=LOOK_S)
            if self.barrier.broken:
                raise threading.BrokenBarrierError
        raise AssertionError("an array was waited for in vain")

    def _next(self, count: Counter[tuple[int, int]], source: int, to: int) -> queue.Queue[bytes]:
        with self._lock:
            count[source, to] += 1
            return self.boxes[source, to, count[source, to]]


def together(size: int, work: Callable[[Any], Any]) -> list[Any]:
    """What `work(world)` returns on each rank, or the first error of a rank."""
    if size == 1:
        return [work(ALONE)]
    common = Common(size)
    results: list[Any] = [None] * size
    errors: list[BaseException] = []

    def one(rank: int) -> None:
        try:
            results[rank] = work(Threads(rank, size, common))
        except threading.BrokenBarrierError:
            pass  # another rank has failed
        except Stopped as error:  # on which all agree; who is on the way out of the barrier must get there
            errors.append(error)
        except BaseException as error:
            errors.append(error)
            common.barrier.abort()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    assert not common.barrier.broken
    assert all(box.empty() for box in common.boxes.values()), "an array was sent and not received"
    return results


class Memory:
    """A checkpoint in memory that outlives its ranks."""

    def __init__(self) -> None:
        self.saved: dict[int, dict[str, bytes]] = {}

    def parts(self) -> Any:
        yield from sorted(self.saved)

    def load(self, part: int, suffix: str) -> io.BytesIO:
        return io.BytesIO(self.saved[part][suffix])

    def add(self, write: Any) -> None:
        opened: dict[str, io.BytesIO] = {}
        write(lambda suffix: opened.setdefault(suffix, io.BytesIO()))
        self.saved[len(self.saved)] = {suffix: file.getvalue() for suffix, file in opened.items()}


class Ring:
    """The join of rows by ranks of this process."""

    together = staticmethod(together)
    Memory = Memory

    @staticmethod
    def sets(
        rows: np.ndarray,
        distance: float,
        block: int = 2048,
        ranks: int = 1,
        tile: int = 2048,
        memory: Memory | None = None,
        earlier: int = 0,
        seats: int = 2,
        **options: Any,
    ) -> list[int]:
        """The smallest row number of each row's set; all ranks must agree.

        The last rows are `earlier` ones. So many ranks are on one node: `seats`.
        """
        memory = memory or Memory()
        new = len(rows) - earlier

        def work(world: Any) -> list[int]:
            share = Share(world, new, block, earlier, block + 1)
            ledger = Ledger(share, rows.shape[1], distance, lambda: memory)
            forest, _ = components(share, rows[share.numbers], distance, ledger, **options)
            return [root if root < new else row for row, root in enumerate(forest.parent.tolist())]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(join, "TILE_ROWS", tile)
            patch.setattr(node, "hosts", lambda world: [str(rank // seats) for rank in range(world.size)])
            found = together(ranks, work)
        assert all(one == found[0] for one in found)
        return found[0]

    @staticmethod
    def survivors(
        rows: np.ndarray,
        roots: Any,
        ids: np.ndarray,
        squares: np.ndarray,
        keep: str = "centroid",
        ranks: int = 1,
        block: int = 2048,
        earlier: int = 0,
        worth: np.ndarray | None = None,
    ) -> Survivors:
        """Who stays, of all rows."""

        def work(world: Any) -> Survivors:
            share = Share(world, len(rows) - earlier, block, earlier, block + 1)
            own = share.numbers
            merits = None if worth is None else worth[own]
            held = ids[own], squares[own], rows[own]
            return survivors(share, np.asarray(roots, np.int32), *held, keep=keep, worth=merits)

        parts = together(ranks, work)
        names = ("numbers", "row", "id", "size", "distance")
        return Survivors(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


@pytest.fixture(scope="session")
def ring() -> type[Ring]:
    return Ring


@pytest.fixture(scope="session")
def reference() -> type[Reference]:
    return Reference


@pytest.fixture(scope="session")
def made() -> type[Made]:
    return Made
