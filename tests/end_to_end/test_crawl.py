"""The main job on a real crawl: what was planted is found, each way of running gives the same bytes, `why` explains."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.crawl import config, danqing, tree, truth
from tests.site import Server, serve
from toolkit.data.pair import pair_id
from toolkit.report.why import why
from toolkit.run.run import open_run

# Planted as a resized copy, but blown up from 375 to 487 pixels: its sharpness is 654, so the paper's blur step
# (at least 1000) takes it before dedup can.
UPSCALED = "http://img12.example.test/2e570fe44d9e2a2.jpg"


@pytest.fixture(scope="module")
def crawl(shared: Path) -> Path:
    """The shared crawl alone: its truth is what is tested here."""
    return shared / "crawl"


@pytest.fixture(scope="module")
def server(crawl: Path) -> Iterator[Server]:
    with serve(json.loads((crawl / "site.json").read_text()), crawl / "site") as running:
        yield running


@pytest.fixture(scope="module")
def runs(crawl: Path, server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same crawl four times: from WAT and WARC, in one process and in pools."""
    folder = tmp_path_factory.mktemp("runs")
    ways = {
        "wat": {"kind": "wat", "executor": {"kind": "local", "workers": 2}},
        "warc": {"kind": "warc", "executor": {"kind": "inline"}},
        "inline": {"kind": "wat", "executor": {"kind": "inline"}},
        "four": {"kind": "wat", "executor": {"kind": "local", "workers": 4}},
        "one": {"kind": "wat", "executor": {"kind": "local", "workers": 1}},
    }
    for name, options in ways.items():
        danqing("run", config(folder, crawl, server.address, name=name, **options))
    return {name: folder / name for name in ways}


@pytest.fixture(scope="module", params=["wat", "warc"])
def run(request: pytest.FixtureRequest, runs: dict[str, Path]) -> Path:
    return runs[request.param]


@pytest.fixture(scope="module")
def stories(run: Path, crawl: Path) -> dict[str, dict[str, Any]]:
    """What `why` says of every planted pair, by id."""
    ids = [pair_id(row["url"], row["alt"]) for row in truth(crawl)]
    return {story["id"]: story for story in why(open_run(run), ids)}


def test_every_planted_pair_is_explained(crawl: Path, stories: dict[str, dict[str, Any]]) -> None:
    for row in truth(crawl):
        story = stories[pair_id(row["url"], row["alt"])]
        assert story["stages"][0]["columns"]["url"] == row["url"]
        last = story["stages"][-1]
        assert (last["dropped"] is None) == (last["stage"] == "export")


def test_each_defect_goes_where_it_is_expected_and_nothing_clean_is_lost(
    crawl: Path, stories: dict[str, dict[str, Any]]
) -> None:
    for row in truth(crawl):
        dropped = stories[pair_id(row["url"], row["alt"])]["dropped"]
        if row["expect"] in ("keep", "drop:dedup"):
            # Which member of a duplicate set stays is the survivor rule's choice; no per-pair step may drop one.
            assert dropped in (None, "dedup.batch", "merge.global") or row["url"] == UPSCALED, (row, dropped)
        else:
            assert dropped.partition(".")[0] in row["expect"].removeprefix("drop:").split("|"), (row, dropped)


def test_of_each_planted_group_exactly_one_is_left(crawl: Path, stories: dict[str, dict[str, Any]]) -> None:
    groups: dict[str, list[bool]] = defaultdict(list)
    for row in truth(crawl):
        if row["expect"] in ("keep", "drop:dedup"):
            kept = stories[pair_id(row["url"], row["alt"])]["dropped"] is None
            groups[row["group"] or row["url"]].append(kept)
    assert {name: sum(kept) for name, kept in groups.items() if sum(kept) != 1} == {}


def test_wat_and_warc_give_the_same_pairs(runs: dict[str, Path]) -> None:
    columns = ["id", "url", "text", "page", "language", "language_by", "chars", "dropped"]

    def pairs(name: str) -> list[dict[str, Any]]:
        paths = sorted((runs[name] / "10_source" / "data").rglob("*.parquet"))
        return [row for path in paths for row in pq.read_table(path, columns=columns).to_pylist()]

    assert pairs("wat") == pairs("warc")


@pytest.mark.parametrize("name", ["inline", "one", "four"])
def test_published_bytes_do_not_depend_on_the_executor(runs: dict[str, Path], name: str) -> None:
    expected = tree(runs["wat"])
    assert len(expected) > 40
    assert tree(runs[name]) == expected


def test_nothing_was_asked_of_the_server_that_the_crawl_does_not_name(server: Server, crawl: Path, run: Path) -> None:
    """A redirect to 127.0.0.1:{port} would reach this very server, under its own address."""
    site = json.loads((crawl / "site.json").read_text())
    # Hosts' robots.txt, and redirects to files on the same host, are asked for too.
    odd = [u for u in server.hits() if u not in site and not u.endswith("/robots.txt") and "/__file__/" not in u]
    assert [u for u in odd if ".example.test" not in u] == []
    assert not [u for u in server.hits() if u.startswith("http://127.")]


def test_verify_finds_the_finished_run_sound_and_status_complete(run: Path) -> None:
    assert json.loads(danqing("verify", run, "--json").stdout)["sound"] is True
    state = json.loads(danqing("status", run, "--json").stdout)
    assert state["complete"] is True
    assert (state["damages"], state["failed"]) == (0, [])


def test_a_finished_run_is_not_done_again(crawl: Path, server: Server, runs: dict[str, Path]) -> None:
    before = {p: p.stat().st_ino for p in runs["one"].glob("*/done/**/*.json")}
    danqing("run", runs["one"].with_suffix(".yaml"))
    assert {p: p.stat().st_ino for p in runs["one"].glob("*/done/**/*.json")} == before


def test_another_configuration_is_refused_by_name(runs: dict[str, Path]) -> None:
    done = danqing("run", runs["one"].with_suffix(".yaml"), "--set", "dedup.distance=0.2", code=2)
    assert "dedup.distance: 0.1 there, 0.2 here" in done.stderr


def test_the_dataset_is_read_by_others(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets
    import webdataset

    data = run / "90_export" / "data"
    loaded = datasets.load_dataset(str(data), cache_dir=str(tmp_path), split="train")
    tars = sorted(map(str, data.rglob("*.tar")))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False))
    assert [row["id"] for row in loaded] == [sample["__key__"] for sample in samples]
    assert [row["caption"] for row in loaded] == [sample["txt"].decode() for sample in samples]
