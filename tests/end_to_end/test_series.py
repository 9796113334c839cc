"""The kill series: twenty SIGKILLs at random instants over process groups, and the bytes of an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.crawl import config, danqing, start, tree
from tests.site import Server, serve

pytestmark = pytest.mark.prove

KILLS = 20
# From "hardly begun" to about half of an undisturbed run on two cores.
SECONDS = (0.3, 4.0)


class Series:
    """One crawl that is run under kills; a run that ends all the same is compared, and the next one begun."""

    def __init__(self, folder: Path, crawl: Path, server: Server, **options: object) -> None:
        self.folder, self.crawl, self.server, self.options = folder, crawl, server, options
        self.shards = len(list((crawl / "wat").glob("*.gz")))
        danqing("run", self.config("undisturbed"))
        self.expected = tree(folder / "undisturbed")
        self.runs = 0

    def config(self, name: str) -> Path:
        return config(self.folder, self.crawl, self.server.address, name=name, **self.options)

    def kill(self, times: int, chance: random.Random) -> None:
        """Kill so many times, each time a command that was running."""
        while times:
            self.runs += 1
            run = self.folder / f"run{self.runs}"
            path = self.config(run.name)
            settled: dict[str, int] = {}
            while times and self.struck(path, chance.uniform(*SECONDS)):
                times -= 1
                assert self.counts(settled) == settled, "images of a finished stage were fetched again"
                settled = settled or self.counts(fetched(run, self.shards))
            danqing("run", path)
            assert self.counts(settled) == settled
            self.compare(run)

    def struck(self, path: Path, seconds: float) -> bool:
        """Start the command and kill its process group after a while; False if it had ended by then."""
        process = start("run", path)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
        return False

    def counts(self, urls: dict[str, int] | set[str]) -> dict[str, int]:
        """Return how often the server was asked for each of the URLs."""
        hits = self.server.hits()
        return {url: hits.get(url, 0) for url in urls}

    def compare(self, run: Path) -> None:
        assert tree(run) == self.expected
        danqing("verify", run)
        assert list(run.glob("*/work/*")) == [], "left-overs in work/"


def fetched(run: Path, shards: int) -> set[str]:
    """Return the URLs that the finished stage fetch asked for; none before it is finished."""
    if len(list((run / "30_fetch" / "done").rglob("*.json"))) < shards:
        return set()
    tables = (run / "30_fetch" / "data").rglob("*.parquet")
    return {u for t in tables for u in pq.read_table(t, columns=["final_url"])["final_url"].to_pylist() if u}


def test_series_on_the_shared_crawl(shared: Path, tmp_path: Path) -> None:
    crawl = shared / "crawl"
    with serve(json.loads((crawl / "site.json").read_text()), crawl / "site") as server:
        Series(tmp_path, crawl, server).kill(KILLS, random.Random(1))


def test_series_on_the_demo(tmp_path: Path) -> None:
    crawl = tmp_path / "crawl"
    danqing("demo", "--make-only", crawl)
    with serve(json.loads((crawl / "site.json").read_text()), crawl / "site") as server:
        blacklist = {"blacklist": str(crawl / "hosts.txt")}
        Series(tmp_path, crawl, server, source=blacklist).kill(KILLS, random.Random(2))
