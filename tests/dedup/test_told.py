"""Each screen says what it compares, and a join tells of every screen that one of its ranks has chosen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from toolkit.dedup import ring as module
from toolkit.dedup.exact import squares
from toolkit.dedup.join import Slab
from toolkit.dedup.screens.choice import SAMPLE_ROWS, Single, choose
from toolkit.dedup.screens.cpu import Cpu
from toolkit.dedup.screens.cuda import Cuda
from toolkit.dedup.screens.shadow import leaving, principal

DIRECTIONS = principal(np.random.default_rng(1).standard_normal((96, 32)).astype(np.float32), 8)


@pytest.mark.parametrize(
    ("screen", "told"),
    [
        (Single(32), "whole tiles of 32 values in float32 by NumPy"),
        (Cpu(32, 0.1), "whole rows of 32 values in bfloat16 on the CPU"),
        (Cpu(32, 0.1, DIRECTIONS, torch.float32), "shadows of 9 of 32 values in float32 on the CPU"),
        (Cuda(32, 0.1, DIRECTIONS, "cpu"), "shadows of 9 of 32 values in bfloat16 on the CPU by PyTorch's products"),
    ],
)
def test_a_screen_says_what_it_compares(screen, told):
    assert screen.told == told


@pytest.mark.parametrize(
    ("share", "told"), [(0, "0"), (2.4e-7, "0.2"), (3.7e-5, "40"), (4.4e-5, "40"), (0.37, "400,000"), (1, "1,000,000")]
)
def test_the_share_of_pairs_that_is_left_is_told_in_one_digit(share, told):
    assert leaving(share) == f"leaving {told} of a million pairs"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_screen_that_was_chosen_by_what_it_leaves_says_so(monkeypatch, device):
    """Times are set, that the choice does not hang on this machine's."""
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((SAMPLE_ROWS, 12)) @ rng.standard_normal((12, 256))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    monkeypatch.setattr("toolkit.dedup.screens.cpu.slowness", lambda *_: 0.2)
    monkeypatch.setattr("toolkit.dedup.screens.cuda.gpu", lambda place: torch.device("cpu"))
    used = choose(10**7, Slab(np.arange(len(rows)), rows, squares(rows)), 0.1, device)
    assert used.told.startswith("shadows of ")
    assert used.told.endswith(" of a million pairs")


def test_what_ranks_have_chosen_is_told_once_each(ring, made, monkeypatch):
    rows, heard = made.scattered(np.random.default_rng(5), 40, 32), []
    chosen = {0: Single(32), 1: Cpu(32, 0.1), 2: Single(32)}
    monkeypatch.setattr(module, "choose", lambda *given: chosen[given[-1]])
    monkeypatch.setattr(module, "seat", lambda world: world.rank)
    ring.sets(rows, 0.01, 10, 3, tell=heard.append)
    assert heard == 3 * [[chosen[0].told, chosen[1].told]]
