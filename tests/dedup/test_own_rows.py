"""Of a large file of features each rank holds its own rows and their ids, and rank 0 writes its table in parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from toolkit.config import Config
from toolkit.config.config import check
from toolkit.data.features import read
from toolkit.data.ids import column
from toolkit.data.world import ALONE, World
from toolkit.dedup import stage
from toolkit.dedup.share import Share, block_rows
from toolkit.errors import WorkError
from toolkit.recipe import BY_NAME
from toolkit.run.plain import PlainTask

from .test_dedup_stage import write
from .test_memory import peak

ROWS, DIM = 200_000, 8
OWN = 2 * DIM + 2 * 16  # bytes of a row as it is read: its features, its id, and the id as a part of all
WINDOWS = 5 << 20  # of all ranks: blocks of features and ids, open files


def large(path: Path, rows: int = ROWS) -> Path:
    rng = np.random.default_rng(1)
    return write(path, rng.standard_normal((rows, DIM)).astype(np.float16), some_ids(rows))


def some_ids(rows: int) -> np.ndarray:
    return np.random.default_rng(2).integers(256, size=(rows, 16), dtype=np.uint8)


def config(*earlier: Path) -> Config:
    tree = {"input": {"kind": "table", "paths": ["-"]}, "dedup": {"earlier": [str(path) for path in earlier]}}
    return check(tree, "test")


@pytest.mark.parametrize("whose", ["own", "earlier"])
def test_four_ranks_together_hold_a_file_once(ring, tmp_path: Path, whose: str) -> None:
    """Who holds a quarter takes a quarter: whether its rows are those of the unit or earlier ones."""
    big, small = large(tmp_path / "big.h5"), large(tmp_path / "small.h5", 100)
    given, chosen = (big, config()) if whose == "own" else (small, config(big))
    found: list[np.ndarray] = [np.empty(0)] * 4

    def hold(world: World) -> None:
        share, _, own = stage._own(
            PlainTask(BY_NAME["merge"], [given], chosen, tmp_path, {}, world=world), "merge", True
        )
        found[world.rank] = own.ids[: share.own] if whose == "own" else own.ids[share.own :]

    hold_all = lambda: ring.together(4, hold)  # noqa: E731
    hold_all()  # imports what it needs
    assert peak(hold_all) <= OWN * (ROWS + 100) + WINDOWS
    assert np.array_equal(np.concatenate(found), some_ids(ROWS))


def test_features_that_have_become_others_are_named(tmp_path: Path) -> None:
    task = PlainTask(
        BY_NAME["dedup"], [large(tmp_path / "a.h5", 10), large(tmp_path / "b.h5", 10)], config(), tmp_path, {}
    )
    assert len(task.shards()) == 2
    (tmp_path / "b.h5").write_text("no HDF5")
    with pytest.raises(WorkError, match=r"The features of .*b\.h5 can not be used\. The file is not HDF5"):
        stage._own(task, "dedup", True)


@pytest.mark.parametrize("rows", [60, 140])
def test_features_that_were_replaced_after_they_were_counted_are_refused(tmp_path, monkeypatch, rows: int) -> None:
    task = replaced(tmp_path, monkeypatch, rows)
    with pytest.raises(WorkError, match=rf"The features of .*a\.h5 .*has {rows} rows and had 100"):
        stage._own(task, "dedup", True)


def test_no_id_stands_beside_the_features_of_another_file(tmp_path, monkeypatch) -> None:
    """A file of as many rows is taken, whole."""
    _, _, own = stage._own(replaced(tmp_path, monkeypatch, 100), "dedup", True)
    with read((tmp_path / "a.h5").open("rb")) as features:
        assert np.array_equal(own.ids[:100], features.ids())
        assert np.array_equal(own.rows[:100], features.block(0, 100))


def replaced(folder: Path, patch: pytest.MonkeyPatch, rows: int) -> PlainTask:
    """A task of two files, the first of which is another one when its rows have been counted."""
    paths = [large(folder / "a.h5", 100), large(folder / "b.h5", 100)]
    rng = np.random.default_rng(7)
    other = write(folder / "other", rng.standard_normal((rows, DIM)).astype(np.float16), some_ids(rows)[::-1].copy())
    pieces = stage._pieces

    def late(*given: Any) -> Any:
        if other.exists():
            other.replace(paths[0])
        return pieces(*given)

    patch.setattr(stage, "_pieces", late)
    return PlainTask(BY_NAME["dedup"], paths, config(), folder, {})


@pytest.mark.parametrize("shards", [{0: 100_000}, {0: 60_000, 1: 0, 2: 40_000}])
def test_a_table_is_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: dict[int, int]) -> None:
    """However many rows a file has, rank 0 holds those of a part beside its own; how they are cut changes no byte."""
    own = np.zeros(100_000, dtype=stage.ANSWER)
    own["id"] = own["set"] = some_ids(len(own))
    share, made = Share(ALONE, len(own), block_rows(len(own))), set()
    for rows in (1 << 17, 7000):  # the first one imports what is needed
        monkeypatch.setattr(stage, "WRITE_ROWS", rows)
        (tmp_path / str(rows)).mkdir()
        task = PlainTask(BY_NAME["dedup"], [], config(), tmp_path / str(rows), {})
        held = peak(lambda task=task: stage._write(task, "dedup", share, shards, own))
        assert held < 250 * 20_000 or rows == 1 << 17
        (output,) = task.books.finish()
        table = tmp_path / str(rows) / Path(output.path).name
        made.add(table.read_bytes())
        assert output.rows == len(own) and pq.read_table(table)["id"].equals(column(own["id"]))
    assert len(made) == 1
