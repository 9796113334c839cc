"""What a rank holds, measured: its rows, fixed windows, and bytes a row; how many edges there are does not matter.

numpy tells tracemalloc of each array, so the figures of the join itself are the same each time. The windows are made
small, that few rows show what many would cost. The shipped windows are measured by the process that has used them.
"""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from toolkit.data.world import ALONE
from toolkit.dedup import exact, forest, join
from toolkit.dedup import node as module
from toolkit.dedup import survivors as keeping
from toolkit.dedup.exact import squares
from toolkit.dedup.forest import Forest
from toolkit.dedup.ledger import Ledger
from toolkit.dedup.ring import components
from toolkit.dedup.screens import choice
from toolkit.dedup.screens.choice import Single
from toolkit.dedup.share import Share
from toolkit.dedup.survivors import survivors

# Bytes, as the docstrings of the modules state them.
OF_THE_JOIN = 4  # for every row of the join: the forest
OF_A_ROW = 135  # for each row of this rank, in ring.py
OF_A_MEMBER = 115  # for each row of this rank, in survivors.py
WINDOWS = 100_000  # for the windows of the fixture

DIM = 32
DISTANCE = 0.05


def many(rng: np.random.Generator, rows: int) -> np.ndarray:
    """No two alike."""
    return rng.standard_normal((rows, DIM))


def near(rng: np.random.Generator, rows: int) -> np.ndarray:
    """No two equal and all alike: every pair is an edge."""
    return rng.standard_normal(DIM) + 0.02 * rng.standard_normal((rows, DIM))


def equal(rng: np.random.Generator, rows: int) -> np.ndarray:
    """One row again and again."""
    return np.tile(rng.standard_normal(DIM), (rows, 1))


def twos(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Sets of two."""
    return np.repeat(rng.standard_normal((rows // 2, DIM)), 2, axis=0) + 1e-3 * rng.standard_normal((rows, DIM))


KINDS = {one.__name__: one for one in (many, near, equal, twos)}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of some kilobytes."""
    for owner, name, size in (
        (exact, "CHUNK_VALUES", 1 << 12),
        (join, "TILE_ROWS", 64),
        (join, "PIECE_PAIRS", 1 << 10),
        (choice, "PANEL_BYTES", 64 * 4 * DIM),
        (keeping, "WINDOW_ROWS", 64),
        (keeping, "CACHED_ROWS", 16),
        (keeping, "SCAN_ROWS", 256),
        (module, "MERGE_ROWS", 256),
        (forest, "ROOT_ROWS", 256),
    ):
        monkeypatch.setattr(owner, name, size)


def made(kind: str, rows: int) -> np.ndarray:
    found = KINDS[kind](np.random.default_rng(rows), rows)
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)


def peak(work: Callable[[], object]) -> int:
    """The most bytes that the work holds at one time."""
    np.unique([0])  # imports a module when it is first called
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def joined(rows: np.ndarray, block: int = 64) -> int:
    share = Share(ALONE, len(rows), block)
    ledger = Ledger(share, DIM, DISTANCE, lambda: pytest.fail("nothing is saved here"))
    ledger.load = lambda _: None  # type: ignore[method-assign]
    return peak(lambda: components(share, rows, DISTANCE, ledger, screen=Single(DIM)))


def chosen(rows: np.ndarray, roots: np.ndarray) -> int:
    share, lengths = Share(ALONE, len(rows), 64), squares(rows)
    ids = np.random.default_rng(1).integers(256, size=(len(rows), 16), dtype=np.uint8)
    return peak(lambda: survivors(share, roots, ids, lengths, rows))


@pytest.mark.parametrize("kind", KINDS)
def test_the_join_holds_bytes_for_rows_and_none_for_edges(kind: str) -> None:
    """Of 2,000 rows that are all alike every pair is an edge: a list of two million takes 16 MB at eight bytes each."""
    half, whole = joined(made(kind, 1000)), joined(made(kind, 2000))
    assert whole <= (OF_THE_JOIN + OF_A_ROW) * 2000 + WINDOWS
    assert whole - half <= 1.1 * (OF_THE_JOIN + OF_A_ROW) * 1000  # nothing grows faster than the rows


def test_a_placeholder_seen_a_hundred_thousand_times_costs_its_rows() -> None:
    assert joined(made("equal", 100_000), 2048) <= (OF_THE_JOIN + OF_A_ROW) * 100_000 + WINDOWS


def test_rows_of_the_join_that_others_hold_cost_the_forest_alone() -> None:
    """What the forest of a large join takes while it grows, is merged with another, and ends in its roots."""
    rows = 200_000
    left = np.random.default_rng(2).integers(rows, size=40_000)
    other = Forest(rows)
    other.union(left, np.maximum(0, left - 7))
    other.news()

    def grow() -> None:
        mine = Forest(rows)
        for start in range(0, len(left), 100):
            mine.union(left[start : start + 100], left[start : start + 100] // 3)
            mine.news()  # as the ledger asks for them
        for start in range(0, rows, module.MERGE_ROWS):
            mine.merge(other.parent[start : start + module.MERGE_ROWS], start)
            mine.news()
        assert mine.roots() is mine.parent

    assert peak(grow) <= OF_THE_JOIN * rows + WINDOWS


@pytest.mark.parametrize("sets", [1, 3, 50, 62, 63, 2000, 4000])
def test_survivors_are_chosen_in_windows(sets: int) -> None:
    """One set as large as everything, many a little larger than a window, one that fills it, or twos."""
    rows = made("many", 4000)
    roots = (np.arange(4000) % sets).astype(np.int32)
    assert chosen(rows, roots) <= OF_A_MEMBER * 4000 + WINDOWS


SHIPPED = """
import sys
import numpy as np
from pathlib import Path
from toolkit.config.config import check
from toolkit.data import features
from toolkit.dedup import ring
from toolkit.run.plain import run_stage

kind, rows, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
if sys.argv[4] == "screened":
    from toolkit.dedup.screens.cpu import Cpu

    ring.choose = lambda rows, sample, distance, *_: Cpu(64, distance)
rng = np.random.default_rng(3)
middle, noise = rng.standard_normal(64), rng.standard_normal((rows, 64))
found = noise if kind == "many" else middle + 0.02 * noise if kind == "near" else np.tile(middle, (rows, 1))
found = (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)
ids = np.random.default_rng(4).integers(256, size=(rows, 16), dtype=np.uint8)
with (folder / "x.h5").open("w+b") as sink:
    features.write(sink, ids=ids, image=[found], dim=64)
config = check({"input": {"kind": "table", "paths": ["-"]}}, "test")
run_stage("dedup", [folder / "x.h5"], folder / "x.parquet", config)
# not ru_maxrss, which begins with that of the process that started this one
print(int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024)
"""


@pytest.mark.parametrize("how", ["plain", "screened"])
def test_the_command_takes_no_more_where_every_pair_is_an_edge(tmp_path, how: str) -> None:
    """With the shipped windows, and a screen or none; the edges of 12,000 rows that are all alike are 576 MB of int32.

    What it may take more are windows: members with their features, and pieces of a tile full of edges.
    """
    if how == "screened":
        pytest.importorskip("torch")
    held = {}
    for kind in ("many", "near", *(["equal"] if how == "plain" else [])):  # equal rows meet no screen
        (tmp_path / kind).mkdir()
        command = [sys.executable, "-c", SHIPPED, kind, "12000", tmp_path / kind, how]
        held[kind] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert held["near"] - held["many"] < 64 << 20, held
    assert held.get("equal", 0) - held["many"] < 64 << 20, held
