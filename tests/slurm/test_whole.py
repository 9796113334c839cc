"""Whole runs on a real Slurm: the bytes of `inline`, from both nodes, from inside a job, through small arrays."""

from __future__ import annotations

import csv
import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.crawl import config, danqing, truth
from tests.slurm.runs import Case, ask, served, until

pytestmark = [pytest.mark.prove, pytest.mark.usefixtures("slurm")]

WORLD = {"nodes": 2, "ranks": 2}
ODD = "a 'b\" ;$(c) 中"


@contextmanager
def case(folder: Path, crawl: Path, site: dict[str, Any], **options: Any) -> Iterator[Case]:
    """Yield a case whose reference is a whole run by `inline`."""
    if (crawl / "hosts.txt").exists():
        options["source"] = {"blacklist": str(crawl / "hosts.txt")}
    with served(crawl) as web:
        inline = {"kind": "inline"}
        danqing("run", config(folder, crawl, web.address, name="reference", executor=inline, **options))
        executor = {"kind": "slurm"} | ({"site": site} if site else {})
        path = config(folder, crawl, web.address, name="run", executor=executor, **options)
        yield Case(folder / "run", path, folder / "reference")


def nodes_of(one: Case, stage: str) -> list[str]:
    """Return where a stage's youngest job ran, as accounting knows by now."""
    return " ".join(ask("sacct", "-nX", f"--jobs={one.job(stage)}", "--format=NodeList%20")).split()


def test_the_demo_on_two_nodes_and_four_ranks(tmp_path: Path) -> None:
    crawl = tmp_path / "crawl"
    danqing("demo", "--make-only", crawl, "--pairs", "600")
    site = {"mem_gb": 1, "cpus": 2, "shards_per_task": 1, "stages": {"dedup": WORLD, "merge": WORLD}}
    with case(tmp_path, crawl, site) as one:
        one.go()
        one.check({})
        assert one.status()["complete"]
        until(lambda: nodes_of(one, "merge") == ["n[1-2]"], "accounting to say that merge ran on both nodes")


def test_the_shared_crawl_with_no_word_on_the_cluster(shared: Path, tmp_path: Path) -> None:
    with case(tmp_path, shared / "crawl", {}) as one:
        one.go()
        one.check({})
        assert one.status()["complete"]


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Sixty files of pairs, in a folder with an odd name."""
    crawl, folder = tmp_path / "crawl", tmp_path / ODD
    folder.mkdir()
    danqing("demo", "--make-only", crawl, "--pairs", "300")
    pairs = truth(crawl)
    for shard in range(60):
        with (folder / f"{shard:02d}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("url", "text"), *((p["url"], p["alt"]) for p in pairs[shard::60])])
    return folder


def test_sixty_shards_where_an_array_has_eleven_elements(tables: Path) -> None:
    """In a folder that a shell would tear to pieces, and from inside of a job."""
    source = {"kind": "table", "paths": [str(tables / "*.csv")], "files_per_shard": 1}
    common: dict[str, Any] = {"input": source, "source": {"blacklist": None}}
    last = ("--until", "unique")
    inline = config(tables, tables, "127.0.0.1:9", name="reference", executor={"kind": "inline"}, **common)
    danqing("run", inline, *last)
    site = {"mem_gb": 1, "shards_per_task": 1}
    path = config(tables, tables, "127.0.0.1:9", name=ODD, executor={"kind": "slurm", "site": site}, **common)
    one = Case(tables / ODD, path, tables / "reference")

    words = [sys.executable, "-m", "toolkit", "run", str(path), *last]
    ask("sbatch", "--wait", "--mem=1G", "--output=/dev/null", f"--wrap={shlex.join(words)}")
    until(lambda: not one.queue(), "the jobs to end")
    one.check({})
    assert one.sent("source") == ["0-10", "11-21", "22-32", "33-43", "44-54", "55-59"]
    one.accounted("source", COMPLETED=60)
    marks = one.run.glob("10_source/done/*/*.json")
    assert sum(json.loads(mark.read_text())["rows_in"] for mark in marks) == 300
