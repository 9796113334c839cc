"""`danqing clean`: what is given up is said, done only when all is right, and never taken for damage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crawl import config, danqing, tree
from tests.site import serve


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A complete run and its configuration."""
    folder = tmp_path_factory.mktemp("clean")
    danqing("demo", "--make-only", folder / "crawl", "--pairs", "40")
    site = json.loads((folder / "crawl" / "site.json").read_text())
    with serve(site, folder / "crawl" / "site") as server:
        path = config(folder, folder / "crawl", server.address)
        danqing("run", path)
        yield folder / "run", path


@pytest.fixture
def run(finished: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


def test_without_yes_it_only_says_what_would_go(run: Path) -> None:
    before = tree(run)
    said = danqing("clean", run).stdout
    assert "fetch" in said and "GB would go" in said and "embed  " not in said and "--yes" in said
    assert tree(run) == before


def test_a_cleaned_run_is_complete_and_sound_and_keeps_what_was_asked(run: Path) -> None:
    before = tree(run)
    said = danqing("clean", run, "--yes").stdout
    assert "no more: the images that later steps dropped" in said
    kept = {path: digest for path, digest in before.items() if path.startswith(("50_embed", "90_export"))}
    assert tree(run) == kept
    danqing("verify", run)
    assert "complete" in danqing("status", run, "--json").stdout
    again = danqing("clean", run, "--yes").stdout
    assert "0.000 GB freed" in again
    danqing("report", run)


def test_what_needs_cleaned_data_is_refused_with_the_reason(finished: tuple[Path, Path], run: Path) -> None:
    danqing("clean", run, "--yes", "--keep", "export")
    assert "danqing clean" in danqing("why", run, "http://x.example.test/", code=1).stderr
    exported = next((run / "90_export" / "data").rglob("*.tar"))
    exported.write_bytes(b"\0" + exported.read_bytes()[1:])
    assert "restore" in danqing("repair", run, code=1).stderr
    shutil.rmtree(run / "90_export" / "done")
    (run / "90_export" / "done.parquet").unlink()
    before = tree(run)
    for command in (("run", finished[1], "--set", f"run_dir={run}"), ("task", run, "export")):
        refused = danqing(*command, code=2).stderr
        assert tree(run) == before
    assert "danqing clean" in refused and "another run_dir" in refused


def test_a_run_that_is_not_right_is_not_cleaned(run: Path) -> None:
    table = next((run / "40_image" / "data").rglob("*.parquet"))
    table.write_bytes(table.read_bytes()[:-1] + b"\0")
    before = tree(run)
    assert "Nothing was removed" in danqing("clean", run, "--yes", code=1).stderr
    assert tree(run) == before


def test_names_that_are_no_stage_are_refused(run: Path) -> None:
    assert "features for embed" in danqing("clean", run, "--keep", "exprot", code=2).stderr
