"""What a reader of the execution core once broke: stale inputs, late shards, two drivers, odd names, wrong units."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crawl import config, danqing, tree
from toolkit.demo import show


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int, Path]]:
    """A crawl, its server's port, and a finished run of it, to be copied."""
    folder = tmp_path_factory.mktemp("restart")
    crawl = folder / "crawl"
    danqing("demo", "--make-only", crawl, "--pairs", "300")
    with show.served(crawl) as port:
        danqing("run", configured(folder, crawl, port))
        yield crawl, port, folder / "run"


def configured(folder: Path, crawl: Path, port: int, **options: object) -> Path:
    return config(folder, crawl, f"127.0.0.1:{port}", source={"blacklist": str(crawl / "hosts.txt")}, **options)


@pytest.fixture
def run(finished: tuple[Path, int, Path], tmp_path: Path) -> tuple[Path, Path]:
    """A copy of the finished run, and its configuration."""
    crawl, port, folder = finished
    shutil.copytree(folder, tmp_path / "run", symlinks=True)
    return tmp_path / "run", configured(tmp_path, crawl, port)


def make_stale(run: Path, stage: str, unit: int) -> None:
    """Give a unit's mark another version, as an older toolkit would have left it."""
    mark = run / stage / "done" / "000" / f"{unit:06d}.json"
    mark.write_text(json.dumps(json.loads(mark.read_text()) | {"version": 0}))
    (run / stage / "done.parquet").unlink()


def fetched(run: Path) -> dict[str, int]:
    return {p.name: p.stat().st_ino for p in (run / "30_fetch" / "done").rglob("*.json")}


def test_nothing_is_built_on_a_stale_shard(run: tuple[Path, Path]) -> None:
    folder, path = run
    before, downloads = tree(folder), fetched(folder)
    make_stale(folder, "20_text", 1)
    source = folder / "10_source/data/000/000001.parquet"
    whole = source.read_bytes()
    source.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    failed = danqing("run", path, "--set", "executor.retries=0", code=1)
    assert "text 000001" in failed.stderr
    assert not (folder / "90_export/data/manifest.json").exists(), "the old manifest would be a lie"
    stages = {s["stage"]: s for s in json.loads(danqing("status", folder, "--json").stdout)["stages"]}
    assert [stages[name]["done"] for name in ("text", "fetch", "image", "dedup", "merge")] == [3, 3, 3, 1, 0]
    source.write_bytes(whole)
    danqing("run", path)
    assert tree(folder) == before
    assert fetched(folder) == downloads, "text came out the same: nothing may be downloaded again"


@pytest.mark.parametrize("stage", ["10_source", "20_text"])
def test_a_shard_that_comes_late_costs_no_download_of_the_others(run: tuple[Path, Path], stage: str) -> None:
    """With a shard missing at source the word counts change too, and with them every measured entropy."""
    folder, path = run
    before, downloads = tree(folder), fetched(folder)
    for gone in (f"{stage}/done.parquet", f"{stage}/done/000/000001.json", f"{stage}/data/000/000001.parquet"):
        (folder / gone).unlink()
    (folder / stage / "data/000/000001.parquet").mkdir()  # nothing can be published there
    danqing("run", path, "--set", "executor.retries=0", "--set", "allow_missing=true", code=1)
    manifest = json.loads((folder / "90_export/data/manifest.json").read_bytes())
    assert manifest["missing"] == [1]
    rows = json.loads(danqing("funnel", folder, "--json").stdout)
    missing = [row["step"] for row in rows if row["state"] == "missing"]
    assert missing == ([] if stage == "10_source" else ["text: shards not done"])
    assert rows[-1]["left"] == manifest["totals"]["rows"]
    assert f"| {manifest['totals']['rows']:,} |" in (folder / "90_export/data/README.md").read_text()
    (folder / stage / "data/000/000001.parquet").rmdir()
    danqing("run", path)
    assert tree(folder) == before
    assert fetched(folder) == downloads


def test_repairing_the_table_of_hosts_costs_no_download(run: tuple[Path, Path]) -> None:
    folder, _ = run
    downloads = fetched(folder)
    table = folder / "25_hosts/data/000/000000.parquet"
    data = bytearray(table.read_bytes())
    data[len(data) // 2] ^= 1
    table.write_bytes(data)
    danqing("repair", folder)
    assert fetched(folder) == downloads
    danqing("verify", folder)


def test_a_damaged_fold_is_made_again(run: tuple[Path, Path]) -> None:
    folder, path = run
    fold = folder / "40_image/done.parquet"
    whole = fold.read_bytes()
    fold.write_bytes(whole[: len(whole) // 2])
    assert json.loads(danqing("status", folder, "--json").stdout)["complete"]
    danqing("run", path)
    assert fold.read_bytes() == whole


def test_a_refused_second_driver_changes_nothing(run: tuple[Path, Path]) -> None:
    folder, path = run
    before = (folder / "run.yaml").read_bytes()
    mark = folder / "40_image/done/000/000001.json"
    mark.write_bytes(b"{")
    with (folder / ".lock").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for arguments in (["run", path, "--set", "executor.retries=77"], ["repair", folder]):
            assert "Another process drives the run" in danqing(*arguments, code=1).stderr
    assert (folder / "run.yaml").read_bytes() == before
    assert mark.read_bytes() == b"{"
    assert (folder / "40_image/data/000/000001.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["task", "RUN", "image", "--units", "3-1"], "3-1 is not a range within 0-3"),
        (["task", "RUN", "image", "--units", "0-999999999"], "not a range within 0-3"),
        (["task", "RUN", "image", "--units", "x"], "expected numbers and ranges"),
        (["task", "RUN", "align"], "has no stage align"),
        (["run", "CONFIG", "--until", "align"], "has no stage align"),
    ],
)
def test_units_and_stages_that_are_not_there_are_refused(
    run: tuple[Path, Path], arguments: list[str], words: str
) -> None:
    folder, path = run
    named = [{"RUN": str(folder), "CONFIG": str(path)}.get(a, a) for a in arguments]
    assert words in danqing(*named, code=2).stderr
    assert not (folder / "70_align").exists()


def test_task_does_the_closing_unit_too(run: tuple[Path, Path]) -> None:
    folder, _ = run
    before = tree(folder)
    shutil.rmtree(folder / "90_export")
    danqing("task", folder, "export")
    assert tree(folder) == before


def test_a_damaged_input_file_may_have_any_name(finished: tuple[Path, int, Path], tmp_path: Path) -> None:
    crawl, _, _ = finished
    odd = tmp_path / "crawl" / "wat"
    odd.mkdir(parents=True)
    names = [b"a\xff\n.gz", "空 格'\";.gz".encode()]
    for name, source in zip(names, sorted((crawl / "wat").glob("*.gz")), strict=False):
        with open(os.path.join(os.fsencode(odd), name), "wb") as file:  # noqa: PTH118, PTH123 (bytes)
            file.write(source.read_bytes()[:-2000])
    path = config(tmp_path, tmp_path / "crawl", "127.0.0.1:9", name="run 空 ';$(x)")
    danqing("run", path, "--until", "source")
    state = json.loads(danqing("status", tmp_path / "run 空 ';$(x)", "--json").stdout)
    assert len({d["where"].rpartition(":")[0] for d in state["damage"]}) == 2
