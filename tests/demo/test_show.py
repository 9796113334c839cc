"""`danqing demo` from end to end: everything planted is found, nothing clean is lost, a second call goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.crawl import config, danqing, tree
from toolkit.demo import show
from toolkit.demo.score import Score
from toolkit.run.run import open_run


def imperfect(result: Score) -> list[str]:
    """Return the steps that missed something or dropped something else."""
    return [row.step for row in result.rows if row.ran and not row.planted == row.found == row.dropped]


def test_a_small_demo_is_perfect_goes_on_when_called_again_and_has_the_same_bytes_inline(tmp_path: Path) -> None:
    first = danqing("demo", "--dir", tmp_path, "--pairs", "300")
    assert "clean pairs lost: 0 of " in first.stdout
    result = show.judge(open_run(tmp_path / "run"), tmp_path / "crawl")
    assert result.perfect, imperfect(result)
    assert len([row for row in result.rows if row.planted]) >= 20
    marks = {p: p.stat().st_ino for p in tmp_path.rglob("done/**/*.json")}
    danqing("demo", "--dir", tmp_path, "--pairs", "300")
    assert {p: p.stat().st_ino for p in tmp_path.rglob("done/**/*.json")} == marks
    with show.served(tmp_path / "crawl") as port:
        blacklist = {"blacklist": str(tmp_path / "crawl" / "hosts.txt")}
        inline = config(
            tmp_path,
            tmp_path / "crawl",
            f"127.0.0.1:{port}",
            name="inline",
            source=blacklist,
            executor={"kind": "inline"},
        )
        danqing("run", inline)
    # What the network answered names the server's port, which is another one here.
    assert tree(tmp_path / "inline", skip=["30_fetch"]) == tree(tmp_path / "run", skip=["30_fetch"])
    refused = danqing("demo", "--dir", tmp_path, "--pairs", "300", "--seed", "2", code=2)
    assert "holds a crawl of 300 pairs with seed 1" in refused.stderr


def test_make_only_writes_the_crawl_and_nothing_else(tmp_path: Path) -> None:
    danqing("demo", "--make-only", tmp_path / "c", "--pairs", "300")
    names = {p.name for p in (tmp_path / "c").iterdir() if not p.name.startswith(".")}
    assert names == {"wat", "warc", "site", "site.json", "truth.jsonl", "hosts.txt", "crawl.json"}
    assert not (tmp_path / "runs").exists()


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    """A real crawl has the very names that the generator writes."""
    (tmp_path / "wat").mkdir()
    (tmp_path / "wat" / "CC-MAIN.warc.wat.gz").write_text("years of work")
    done = danqing("demo", "--make-only", tmp_path, code=2)
    assert "holds wat" in done.stderr
    assert (tmp_path / "wat" / "CC-MAIN.warc.wat.gz").exists()


@pytest.mark.prove
def test_the_whole_demo_is_perfect_from_wat_and_from_warc(tmp_path: Path) -> None:
    danqing("demo", "--dir", tmp_path)
    crawl = tmp_path / "crawl"
    result = show.judge(open_run(tmp_path / "run"), crawl)
    assert result.perfect, imperfect(result)
    with show.served(crawl) as port:
        blacklist = {"blacklist": str(crawl / "hosts.txt")}
        danqing("run", config(tmp_path, crawl, f"127.0.0.1:{port}", "warc", "warc", source=blacklist))
    assert show.judge(open_run(tmp_path / "warc"), crawl).perfect
    columns = ["id", "url", "text", "page", "language", "dropped"]
    pairs = [
        [row for p in sorted((tmp_path / name / "10_source" / "data").rglob("*.parquet")) for row in rows(p, columns)]
        for name in ("run", "warc")
    ]
    assert pairs[0] == pairs[1]
    assert len(pairs[0]) == json.loads((crawl / "crawl.json").read_text())["pairs"] == 2000


def rows(path: Path, columns: list[str]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = pq.read_table(path, columns=columns).to_pylist()
    return found
