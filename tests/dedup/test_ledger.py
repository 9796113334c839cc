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
    """Parts of which another attempt saves each just before this one does."""

    def __init__(self, folder: Path) -> None:
        self.ours, self.other = parts(folder), parts(folder, "2-b")
        self.parts, self.load = self.ours.parts, self.ours.load

    def save(self, part, write) -> None:
        self.other.save(part, lambda create: create(SUFFIX).write(b"of another join"))
        self.ours.save(part, write)


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_part_that_another_attempt_has_saved_takes_no_message_from_the_ranks(join, tmp_path, reference, rows, ranks):
    """What the ranks send to be saved must not be taken for the rows that they send next."""
    assert join(Beaten(tmp_path), ranks) == reference.sets(rows, DISTANCE)


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

    def save(self, part, write) -> None:
        pass


def test_pairs_that_cost_nothing_are_saved_before_they_fill_the_memory():
    """A crawl that is nearly all copies: blocks without rows, but many pairs of them."""
    share = Share(ALONE, 10, 5)
    ledger = Ledger(share, 8, DISTANCE, lambda: None)
    for _ in range(rings.SAVE_FLOPS // PAIR_FLOPS):
        ledger.note(0, 1, 0)
    assert ledger.flops >= rings.SAVE_FLOPS
