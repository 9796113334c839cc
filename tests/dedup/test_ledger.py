"""The ledger of tiles on real parts: what is saved is found, whatever another attempt or the disk does meanwhile."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from toolkit.data.stage import Stopped
from toolkit.data.world import ALONE
from toolkit.dedup import ring as rings
from toolkit.dedup.forest import Forest
from toolkit.dedup.ledger import PAIR_FLOPS, SUFFIX, Ledger
from toolkit.dedup.ring import components
from toolkit.dedup.screens import choice
from toolkit.dedup.share import Share
from toolkit.errors import WorkError
from toolkit.recipe import BY_NAME
from toolkit.run.layout import Layout
from toolkit.run.parts import Parts

DISTANCE, BLOCK = 0.1, 5


def parts(folder: Path, token: str = "1-a") -> Parts:
    return Parts(Layout(folder), BY_NAME["dedup"], 0, {"embed": "x"}, token)


@pytest.fixture
def rows(made) -> np.ndarray:
    return made.clustered(np.random.default_rng(9), 60, 8, 0.3, centres=6)


@pytest.fixture
def join(ring, rows, monkeypatch):
    """Join by some ranks with this checkpoint, saving at every turn; stop after so many looks."""
    monkeypatch.setattr(rings, "SAVE_FLOPS", 0)
    monkeypatch.setattr(rings, "SAVES", 10**9)
    monkeypatch.setattr(choice, "PANEL_BYTES", 1)

    def work(checkpoint: object, ranks: int = 1, looks: int = 10**9) -> list[int]:
        def one(world) -> list[int]:
            left = [looks]

            def stopping() -> bool:
                left[0] -= 1
                return left[0] < 0

            share = Share(world, len(rows), BLOCK)
            ledger = Ledger(share, rows.shape[1], DISTANCE, lambda: checkpoint)
            own = rows[share.begin : share.end]
            return components(share, own, DISTANCE, ledger, stopping=stopping)[0].parent.tolist()

        return ring.together(ranks, one)[0]

    return work


class Beaten:
    """Parts that have no number yet when another attempt saves one."""

    def __init__(self, folder: Path) -> None:
        self.ours, self.other = parts(folder), parts(folder, "2-b")
        self.parts, self.load = self.ours.parts, self.ours.load
        self.before = lambda: self.other.add(lambda create: create(SUFFIX).write(b"of another join"))

    def add(self, write) -> None:
        def late(create) -> None:
            self.before()
            write(create)

        self.ours.add(late)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_each_part_is_saved_beside_those_of_another_attempt(join, tmp_path, reference, rows, ranks):
    expected, beaten = reference.sets(rows, DISTANCE), Beaten(tmp_path)
    assert join(beaten, ranks) == expected
    numbers = list(beaten.parts())
    assert numbers == list(range(len(numbers)))
    ours = [beaten.load(number, SUFFIX).read() != b"of another join" for number in numbers]
    assert ours == [False, True] * (len(numbers) // 2)
    assert join(Frozen(parts(tmp_path)), ranks) == expected


def test_two_attempts_at_once_leave_nothing_that_rests_on_what_is_lost(tmp_path):
    """A pair of blocks is finished by one attempt with edges that the other has found, each in its own forest.

    Three rows with three edges, in two pairs of blocks: whoever has joined one pair finds in the other one edge less
    to unite. If either gave its part up for the other's, both pairs could be finished and an edge be nowhere.
    """
    share = Share(ALONE, 3 * BLOCK, BLOCK)
    one, other = ((Forest(share.total), Beaten(tmp_path)) for _ in range(2))
    one[1].ours, one[1].other, other[1].ours = parts(tmp_path), parts(tmp_path, "2-b"), parts(tmp_path, "2-b")
    first, second = (Ledger(share, 8, DISTANCE, lambda part=part: part) for _, part in (one, other))

    def inner(forest: Forest, ledger: Ledger) -> None:
        forest.union(np.array([1]), np.array([3]))
        ledger.note(0, 0, 1)

    def outer(forest: Forest, ledger: Ledger) -> None:
        forest.union(np.array([1, 3]), np.array([6, 6]))
        ledger.note(0, 1, 1)

    inner(one[0], first)
    second.note(1, 1, 1)
    one[1].before = lambda: second.save(other[0])
    other[1].before = lambda: None
    first.save(one[0])
    outer(other[0], second)
    first.note(2, 2, 1)
    other[1].before, one[1].before = lambda: first.save(one[0]), lambda: None
    second.save(other[0])
    outer(one[0], first)
    first.save(one[0])
    other[1].before = lambda: None
    inner(other[0], second)
    second.save(other[0])

    forest = Forest(share.total)
    third = Ledger(share, 8, DISTANCE, lambda: parts(tmp_path, "3-c"))
    third.load(forest)
    assert third.has(0, 0)
    assert third.has(0, 1)
    assert forest.find(np.array([1, 3, 6])).tolist() == [1, 1, 1]


def test_a_flipped_bit_in_a_part_stops_the_join_or_changes_nothing(join, tmp_path, reference, rows):
    with suppress(Stopped):
        join(parts(tmp_path), 2, looks=20)
    expected, rng, refused = reference.sets(rows, DISTANCE), random.Random(3), 0
    saved = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert len(saved) >= 6
    for _ in range(60):
        path = rng.choice(saved)
        good = path.read_bytes()
        bit = rng.randrange(8 * len(good))
        path.write_bytes(good[: bit // 8] + bytes([good[bit // 8] ^ 1 << bit % 8]) + good[bit // 8 + 1 :])
        try:
            assert join(Frozen(parts(tmp_path))) == expected
        except WorkError as error:
            assert "is damaged; remove its folder" in str(error)
            refused += 1
        path.write_bytes(good)
    assert refused > 40
    assert join(Frozen(parts(tmp_path))) == expected


class Frozen:
    """Parts to which nothing is added."""

    def __init__(self, parts: Parts) -> None:
        self.parts, self.load = parts.parts, parts.load

    def add(self, write) -> None:
        pass


def test_pairs_that_cost_nothing_are_saved_before_they_fill_the_memory():
    """A crawl that is nearly all copies: blocks without rows, but many pairs of them."""
    share = Share(ALONE, 10, 5)
    ledger = Ledger(share, 8, DISTANCE, lambda: None)
    for _ in range(rings.SAVE_FLOPS // PAIR_FLOPS):
        ledger.note(0, 1, 0)
    assert ledger.flops >= rings.SAVE_FLOPS
