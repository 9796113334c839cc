"""A run that is held against an earlier one: what counts, what is refused, and that the earlier one is left alone."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from tests.crawl import config, danqing, tree
from tests.site import serve
from toolkit.config import load
from toolkit.data import features
from toolkit.data.ids import column
from toolkit.dedup import ledger, ring
from toolkit.dedup import stage as dedup
from toolkit.errors import UserError, WorkError
from toolkit.recipe import BY_NAME
from toolkit.run.earlier import find, pieces
from toolkit.run.equipment import equipped
from toolkit.run.plan import plan
from toolkit.run.run import Run, create, look, open_run
from toolkit.run.task import RunTask, attempt


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
            stored |= dict(zip(column(found.ids()).to_pylist(), found.block(0, len(found)), strict=True))
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


def test_marks_tell_how_the_join_compared_and_status_says_it(runs: Path) -> None:
    told = "whole tiles of 1728 values in float32 by NumPy"
    run = open_run(runs / "new")
    for name, units in (("dedup", 2), ("merge", 1)):
        assert [entry.mark.facts["join"] for entry in run.marks(BY_NAME[name]).values()] == units * [[told]]
    said = danqing("status", runs / "new").stdout.splitlines()
    assert {f"join of dedup: {told} (2 units)", f"join of merge: {told}"} <= set(said)


@pytest.fixture
def away(runs: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the run that is held against the other, which is in an archive by now; its configuration."""
    shutil.copytree(runs / "new", tmp_path / "new")
    tree_ = yaml.safe_load((runs / "new.yaml").read_text()) | {"run_dir": str(tmp_path / "new")}
    path = tmp_path / "new.yaml"
    path.write_text(yaml.safe_dump(tree_))
    (runs / "old").rename(runs / "archive")
    yield path
    (runs / "archive").rename(runs / "old")


def test_once_merge_is_done_a_run_goes_on_without_the_earlier_one(away: Path) -> None:
    root = away.parent / "new"
    before = tree(root)
    shutil.rmtree(root / "90_export")
    rows = {row["stage"]: row for row in json.loads(danqing("plan", away, "--json").stdout)["stages"]}
    assert rows["merge"]["core_hours"] == 0 and rows["export"]["done"] == 0
    danqing("run", away)
    assert tree(root) == before
    danqing("verify", root)


@pytest.mark.parametrize("stage", ["40_image", "80_merge"])
def test_until_merge_is_done_the_earlier_one_is_wanted(away: Path, stage: str) -> None:
    shutil.rmtree(away.parent / "new" / stage)
    for command in ("plan", "run"):
        assert "old matches nothing" in danqing(command, away, code=2).stderr


def test_once_merge_is_done_another_earlier_one_is_another_run_still(away: Path, runs: Path) -> None:
    with pytest.raises(UserError, match=r"Different: what dedup\.earlier holds"):
        look(load(str(away), [f"dedup.earlier=[{many_features(runs / 'other.h5', rows=9)}]"]))
    listed = away.parent / "new" / "earlier.jsonl"
    listed.write_text("junk\n")
    with pytest.raises(UserError, match="matches nothing"):
        look(load(str(away)))


def test_once_merge_is_done_what_a_pattern_has_come_to_match_is_another_run(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "new", tmp_path / "new")
    shutil.copytree(runs / "old", tmp_path / "crawls" / "2023")
    given = load(str(runs / "new.yaml"), [f"run_dir={tmp_path / 'new'}", f"dedup.earlier=['{tmp_path}/crawls/*']"])
    create(given).free()
    (tmp_path / "crawls" / "2023").rename(tmp_path / "archive")
    assert look(given).digest == open_run(runs / "new").digest
    many_features(tmp_path / "crawls" / "2024.h5", rows=9)
    for _ in range(2):
        with pytest.raises(UserError, match=r"Different: what dedup\.earlier holds"):
            look(given)
        if (tmp_path / "archive").exists():  # the second time both are there
            (tmp_path / "archive").rename(tmp_path / "crawls" / "2023")


def test_a_plan_counts_the_earlier_rows(runs: Path) -> None:
    (source,) = find([str(runs / "old")])
    assert sum(piece.rows for piece in pieces(source)) == len(survivors(runs / "old")[0])
    with (runs / "large.csv").open("wb") as large:
        large.truncate(300_000_000)
    table = [f"run_dir={runs / 'x'}", f"input={{kind: table, paths: ['{large.name}']}}"]
    cost = []
    for earlier in ("", many_features(runs / "many.h5", rows=2000)):
        run = look(load(str(runs / "new.yaml"), [*table, f"dedup.earlier=[{earlier}]"]))
        cost.append({row.stage: row.core_hours for row in plan(run)})
    assert cost[1].pop("merge") > cost[0].pop("merge")
    assert cost[0] == cost[1]


def many_features(path: Path, rows: int, seed: int = 0) -> Path:
    """A file of features as the descriptor makes them, without likeness."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 256, (rows, 16), np.uint8)
    with path.open("w+b") as sink:
        blocks = (rng.standard_normal((1, 1728)).astype(np.float16).repeat(rows, axis=0),)
        features.write(sink, ids=ids, image=blocks, dim=1728)
    return path


def looked(runs: Path, name: str, *earlier: Path, **dedup: object) -> Run:
    """The run that a configuration would make; nothing is written."""
    named = json.dumps([str(path) for path in earlier or [runs / "old"]])
    options = [f"dedup.{option}={value}" for option, value in dedup.items()]
    return look(load(str(runs / "new.yaml"), [f"run_dir={runs / name}", f"dedup.earlier={named}", *options]))


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
    with pytest.raises(UserError, match=r"Different: what dedup.earlier holds. Give"):
        looked(runs, "new", copy, device="cpu")


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


def test_rows_that_change_in_a_file_are_noticed_though_its_size_stays(tmp_path: Path) -> None:
    path = many_features(tmp_path / "a.h5", rows=100)
    (before,) = find([str(path)])
    again = many_features(tmp_path / "a.h5", rows=100)
    assert find([str(again)]) == [before]
    for name, seed in (("image", 0), ("id", 0)):
        with h5py.File(many_features(path, rows=100, seed=seed), "r+") as file:
            file[name][40] = file[name][40][::-1]
        assert path.stat().st_size == int(before.content.split()[1])
        with pytest.raises(WorkError, match="not what it was"):
            pieces(before)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WorkError, match="not HDF5, or is damaged"):
        find([str(path)])


def test_the_runs_own_folder_is_left_out_of_a_glob_and_refused_by_name(runs: Path) -> None:
    there = open_run(runs / "new").digest
    assert looked(runs, "new", runs / "[no][el][wd]").digest == there  # old and new
    for inside in (runs / "new", runs / "new" / "50_embed"):
        with pytest.raises(UserError, match="in the folder of this very run"):
            looked(runs, "new", inside)
    with pytest.raises(UserError, match="matches nothing"):
        looked(runs, "new", runs / "new" / "50_embed" / "*")


@pytest.mark.parametrize("text", ["", "junk\n", "{}\n", "[1, 2]\n", '["a", null]\n', '["/a", "b"]\n', None])
def test_a_run_whose_earlier_ones_are_not_known_any_more_builds_nothing(
    runs: Path, tmp_path: Path, text: str | None
) -> None:
    shutil.copytree(runs / "new", tmp_path / "new", ignore=shutil.ignore_patterns("*_*"))
    listed = tmp_path / "new" / "earlier.jsonl"
    right = listed.read_bytes()
    listed.unlink() if text is None else listed.write_text(text)
    run = open_run(tmp_path / "new")
    with pytest.raises(WorkError, match="is not what the run was started with"):
        RunTask(run, BY_NAME["merge"], 0, tmp_path, {}).earlier()
    create(load(str(runs / "new.yaml"), [f"run_dir={tmp_path / 'new'}"])).free()
    assert listed.read_bytes() == right


@pytest.fixture
def joined(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Run]]:
    """Makes a run up to merge, which two files of equal size are held against: some of its own features, and others."""
    monkeypatch.setattr(ledger, "SAVE_FLOPS", 0)
    monkeypatch.setattr(ring, "SAVE_FLOPS", 0)
    monkeypatch.setattr(dedup, "block_rows", lambda rows: 4)
    _, own = survivors(runs / "new")
    own += np.random.default_rng(0).normal(0, 0.002, own.shape)  # alike, and not equal: equal rows need no join
    for name, rows in (("a", own), ("b", np.random.default_rng(1).standard_normal(own.shape))):
        with (tmp_path / f"{name}.h5").open("w+b") as sink:
            ids = np.random.default_rng(ord(name)).integers(0, 256, (len(rows), 16), np.uint8)
            features.write(sink, ids=ids, image=[rows.astype(np.float16)], dim=rows.shape[1])

    def make(name: str, *earlier: str) -> Run:
        named = json.dumps([str(tmp_path / f"{one}.h5") for one in earlier])
        run = create(load(str(runs / "new.yaml"), [f"run_dir={tmp_path / name}", f"dedup.earlier={named}"]))
        run.free()
        for stage in runs.glob("new/[1-7]*_*"):
            shutil.copytree(stage, tmp_path / name / stage.name, dirs_exist_ok=True)
        return run

    yield make


def stopped(run: Run) -> None:
    """Do a merge up to the end of its join."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dedup, "survivors", raising)
        attempt(run, BY_NAME["merge"], 0)
    assert list(run.layout.work(BY_NAME["merge"]).glob("*.parts-*/*.pairs"))


def raising(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_merge_that_goes_on_applies_no_union_to_other_earlier_rows(joined: Callable[..., Run]) -> None:
    attempt(joined("whole", "a", "b"), BY_NAME["merge"], 0)
    right = tree(joined("whole", "a", "b").layout.root, skip=["90_export"])
    stopped(joined("swapped", "a", "b"))
    attempt(joined("swapped", "b", "a"), BY_NAME["merge"], 0)
    run = joined("renumbered", "a", "b")
    stopped(run)
    run = open_run(run.layout.root)
    run.earlier_of_run = run.earlier[::-1]
    attempt(run, BY_NAME["merge"], 0)
    for name in ("swapped", "renumbered"):
        assert tree(run.layout.root.parent / name) == right


def test_a_merge_does_not_go_on_with_another_file_of_the_same_size(joined: Callable[..., Run]) -> None:
    run = joined("run", "a", "b")
    stopped(run)
    first, second = (Path(source.path) for source in run.earlier)
    first.write_bytes(second.read_bytes())
    with pytest.raises(WorkError, match="not what it was when this run was started"):
        attempt(open_run(run.layout.root), BY_NAME["merge"], 0)
    with pytest.raises(UserError, match=r"what dedup\.earlier holds"):
        joined("run", "a", "b")


@pytest.mark.parametrize(
    ("option", "missing", "words"),
    [
        ({"backend": "faiss"}, "faiss", "FAISS is not installed"),
        ({"device": "cuda"}, "torch", "PyTorch is not installed"),
    ],
)
def test_what_the_join_lacks_is_said_before_anything_is_fetched(
    runs: Path, monkeypatch: pytest.MonkeyPatch, option: dict[str, str], missing: str, words: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=words):
        looked(runs, "x", **option)
    if "device" in option:
        looked(runs, "new", **option)  # where the join is done nothing is needed


def test_a_gpu_is_looked_for_where_the_work_will_be(runs: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match=r"PyTorch finds no GPU on this machine.*option gres"):
        looked(runs, "x", device="cuda")
    equipped(load(str(runs / "new.yaml"), ["dedup.device=cuda", "executor.kind=slurm"]))
