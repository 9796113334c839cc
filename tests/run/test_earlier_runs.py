"""A run that is held against an earlier one: what counts, what is refused, and that the earlier one is left alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.crawl import config, danqing, tree
from tests.site import serve
from toolkit.config import load
from toolkit.data import features
from toolkit.errors import UserError, WorkError
from toolkit.recipe import BY_NAME
from toolkit.run.earlier import find, pieces
from toolkit.run.plan import plan
from toolkit.run.run import Run, look, open_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a run over the first files of a crawl, and one over all of them that is held against it."""
    folder = tmp_path_factory.mktemp("earlier")
    danqing("demo", "--make-only", folder / "crawl", "--pairs", "40")
    wat = sorted((folder / "crawl" / "wat").glob("*.gz"))
    with serve(json.loads((folder / "crawl" / "site.json").read_text()), folder / "crawl" / "site") as server:
        half = {"kind": "wat", "paths": [str(path) for path in wat[: len(wat) // 2]], "files_per_shard": 1}
        danqing("run", config(folder, folder / "crawl", server.address, name="old", input=half))
        before = everything(folder / "old")
        section = {"distance": 0.1, "earlier": [str(folder / "old")]}
        danqing("run", config(folder, folder / "crawl", server.address, name="new", dedup=section))
        assert everything(folder / "old") == before
        yield folder


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def survivors(run: Path) -> tuple[list[str], np.ndarray]:
    """The ids of what a run published, and their features."""
    ids = [i for path in sorted((run / "90_export").rglob("0*.parquet")) for i in pq.read_table(path)["id"].to_pylist()]
    stored = {}
    for path in (run / "50_embed").rglob("*.h5"):
        with path.open("rb") as file, features.read(file) as found:
            stored |= dict(zip(features.unpacked(found.ids), found.block(0, len(found)), strict=True))
    return ids, np.array([stored[i] for i in ids], np.float64)


def test_nothing_is_published_that_is_like_what_an_earlier_run_published(runs: Path) -> None:
    (old, x), (new, y) = survivors(runs / "old"), survivors(runs / "new")
    assert old and new
    assert not set(old) & set(new)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, y)]
    assert (unit[0] @ unit[1].T).max() < 0.9
    marks = open_run(runs / "new").marks(BY_NAME["merge"])
    assert marks.sum("drops.merge.earlier") > 0


def test_what_was_dropped_is_told_with_the_reason(runs: Path) -> None:
    merged = [pq.read_table(path).to_pylist() for path in (runs / "new" / "80_merge" / "data").rglob("*.parquet")]
    known = [row for rows in merged for row in rows if row["dropped"] == "merge.earlier"]
    assert {row["set"] for row in known} <= set(survivors(runs / "old")[0])
    (story,) = json.loads(danqing("why", runs / "new", known[0]["id"], "--json").stdout)
    assert story["dropped"] == "merge.earlier"
    danqing("report", runs / "new")
    page = (runs / "new" / "report.html").read_text()
    assert "an earlier run (dedup.earlier) has the one that stays" in page
    assert "shards searched" not in page
    rows = {row["step"]: row for row in json.loads((runs / "new" / "funnel.json").read_text())}
    assert rows["merge.earlier"]["state"] == "run" and rows["merge.earlier"]["dropped"] == len(known)
    rows = {row["step"]: row for row in json.loads((runs / "old" / "funnel.json").read_text())}
    assert rows["merge.earlier"]["state"] == "not run"


def test_the_run_is_sound_and_goes_on_and_says_no_place_of_the_earlier_one(runs: Path) -> None:
    (runs / "old").rename(runs / "away")
    danqing("verify", runs / "new")
    (runs / "away").rename(runs / "old")
    assert "complete" in danqing("status", runs / "new", "--json").stdout
    before = tree(runs / "new")
    danqing("run", runs / "new.yaml")
    assert tree(runs / "new") == before
    card = (runs / "new" / "90_export" / "data" / "README.md").read_text()
    assert str(runs) not in card and "dedup.earlier" in card


def test_a_plan_counts_the_earlier_rows(runs: Path) -> None:
    (source,) = find([str(runs / "old")])
    assert sum(piece.rows for piece in pieces(source)) == len(survivors(runs / "old")[0])
    cost = {row.stage: row.core_hours for row in plan(looked(runs, "planned"))}
    assert cost["merge"] >= 0


def looked(runs: Path, name: str, *earlier: Path, **dedup: object) -> Run:
    """The run that a configuration would make; nothing is written."""
    named = json.dumps([str(path) for path in earlier or [runs / "old"]])
    return look(load(str(runs / "new.yaml"), [f"run_dir={runs / name}", f"dedup.earlier={named}"]))


@pytest.fixture
def copy(runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs / "old", tmp_path / "moved"))


def test_the_digest_covers_what_an_earlier_run_holds_and_not_its_place(runs: Path, copy: Path) -> None:
    there = open_run(runs / "new").digest
    assert looked(runs, "new", copy).digest == there
    assert looked(runs, "x", copy, runs / "old").digest != there  # it counts twice
    stored = next((copy / "50_embed").rglob("*.h5"))
    assert looked(runs, "x", stored).digest != looked(runs, "x", *copy.glob("50_embed/data/*/*.h5")).digest
    (copy / "90_export" / "done.parquet").unlink()
    mark = next((copy / "50_embed" / "done").rglob("*.json"))
    (copy / "50_embed" / "done.parquet").unlink()
    told = json.loads(mark.read_text())
    mark.write_text(json.dumps(told | {"rows_out": told["rows_out"] + 1}))
    with pytest.raises(UserError, match=r"another configuration.*dedup.earlier"):
        looked(runs, "new", copy)


def test_a_run_that_is_not_finished_or_has_no_features_any_more_is_refused(runs: Path, copy: Path) -> None:
    danqing("clean", copy, "--yes", "--keep", "dataset,features")
    assert looked(runs, "x", copy).digest == open_run(runs / "new").digest
    danqing("clean", copy, "--yes", "--keep", "dataset")
    with pytest.raises(UserError, match=r"gave up its data of embed.*--keep export,features"):
        looked(runs, "x", copy)
    assert looked(runs, "new", copy).digest == open_run(runs / "new").digest  # what was begun is looked at, as it was
    shutil.rmtree(copy / "90_export" / "done")
    (copy / "90_export" / "done.parquet").unlink()
    with pytest.raises(UserError, match="is not finished"):
        looked(runs, "x", copy)


def test_nothing_is_read_that_has_changed_or_is_damaged(copy: Path) -> None:
    (source,) = find([str(copy)])
    piece = pieces(source)[0]
    piece.table.path.write_bytes(b"x" * piece.table.size)
    with pytest.raises(WorkError, match="damaged"):
        piece.ids()
    piece.features.path.unlink()
    with pytest.raises(WorkError, match="missing"):
        piece.open()
    shutil.rmtree(copy)
    with pytest.raises(WorkError, match="not what it was"):
        pieces(source)


def test_features_of_another_encoder_are_refused_before_anything_is_fetched(runs: Path, tmp_path: Path) -> None:
    with (tmp_path / "old.h5").open("w+b") as sink:
        features.write(sink, ids=np.zeros((1, 16), np.uint8), image=[np.ones((1, 8), np.float16)], dim=8)
    with pytest.raises(UserError, match=r"old.h5 have the dim 8, those of this run 1728"):
        looked(runs, "x", tmp_path / "old.h5")
