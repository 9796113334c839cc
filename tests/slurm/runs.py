"""Runs on a real Slurm as tests use them: a crawl whose server can hold back; what jobs, marks and bytes say."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.crawl import danqing, start, tree
from toolkit.demo import server
from toolkit.recipe import BY_NAME
from toolkit.run import records
from toolkit.run.run import open_run

PATIENCE_S = 600  # for one thing to happen; nothing is asserted of how long it takes
FREE = 30  # pictures of a shard that are answered while the server holds back the others


class Site(server.Site):
    """The demo's web server in a thread of this process.

    While it holds, who asks for more than the first pictures of a shard waits: so each task comes as far as that and
    no further, however fast or slow the machine is.
    """

    def __init__(self, answers: Mapping[str, Mapping[str, Any]], root: Path) -> None:
        super().__init__(answers, root)
        self.shards: Mapping[str, int] = {}  # of each URL that may be held back
        self._given: Counter[int] = Counter()
        self._holds = False

    def hold(self) -> None:
        """Hold back all but the first pictures of each shard from now on."""
        self._given.clear()
        self._holds = True

    def release(self) -> None:
        """Answer everything, what waits too."""
        self._holds = False

    @property
    def address(self) -> str:
        """As `fetch.resolve` wants it."""
        return f"127.0.0.1:{self.port}"

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        shard = self.shards.get(f"http://{request.host}{request.raw_path}")
        if shard is not None:
            while self._holds and self._given[shard] >= FREE:
                await asyncio.sleep(0.02)
            self._given[shard] += 1
        return await super().handle(request)

    def hits(self) -> Counter[str]:
        """Return how often each URL was asked for so far."""
        return Counter(self._hits)


@contextmanager
def served(crawl: Path) -> Iterator[Site]:
    """Serve a crawl as long as the block lasts."""
    site, ended = Site(json.loads((crawl / "site.json").read_text()), crawl / "site"), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(site, ended)))
    thread.start()
    try:
        until(lambda: site.port, "the web server to start")
        yield site
    finally:
        ended.set()
        thread.join()


async def _serve(site: Site, ended: threading.Event) -> None:
    serving = asyncio.create_task(server.serve(site, 0, until_eof=False))
    await asyncio.to_thread(ended.wait)
    serving.cancel()
    with suppress(asyncio.CancelledError):
        await serving


def until(found: Callable[[], Any], what: str) -> Any:
    """Wait until something is found, and return it."""
    end = time.monotonic() + PATIENCE_S
    while not (it := found()):
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.1)
    return it


def ask(*command: str) -> list[str]:
    """Return the lines that a command of Slurm prints."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    return done.stdout.splitlines()


@dataclass(frozen=True)
class Case:
    """A run folder, its configuration, and what it is compared with."""

    run: Path
    config: Path
    reference: Path

    def begin(self, *options: str) -> subprocess.Popen[bytes]:
        """Start `danqing run`, which waits for the jobs."""
        return start("run", self.config, "--wait", *options)

    def go(self, *options: str, code: int = 0) -> str:
        """Run `danqing run`, which waits for the jobs, and return what it printed."""
        return danqing("run", self.config, "--wait", *options, code=code).stdout

    def queue(self, stage: str = "") -> list[tuple[str, str]]:
        """Return the elements that Slurm holds of the run, or of a stage, with their states."""
        run = open_run(self.run)
        names = [records.name(run, stage)] if stage else list(records.names(run))
        lines = ask("squeue", "--noheader", "--array", f"--name={','.join(names)}", "--format=%i %T")
        return [(line.split()[0], line.split()[1]) for line in lines]

    def job(self, stage: str) -> int:
        """Return the number of the youngest job or array of a stage."""
        return [r.job for r in records.records(open_run(self.run)) if r.stage == stage][-1]

    def sent(self, stage: str) -> list[str]:
        """Return the units of each submission of a stage."""
        return [r.units for r in records.records(open_run(self.run)) if r.stage == stage]

    def accounted(self, stage: str, **states: int) -> None:
        """Wait until accounting, which may lag behind the queue, has heard of these ends and of no other."""
        until(lambda: self.ended(stage) == states, f"accounting to say of {stage}: {states}")

    def ended(self, stage: str) -> Counter[str]:
        """Return in which states the starts of a stage's elements ended, as accounting knows them by now."""
        numbers = [str(r.job) for r in records.records(open_run(self.run)) if r.stage == stage]
        lines = ask("sacct", "-nXPD", f"--jobs={','.join(numbers)}", "--format=State") if numbers else []
        return Counter(line.split()[0] for line in lines)

    def at_work(self, stage: str) -> dict[str, int]:
        """Return the process of each element of a stage that has begun a unit, by the element's number in its array."""
        begun = any((self.run / BY_NAME[stage].folder / "work").glob("*/"))
        return dict(_processes(self.run, stage)) if begun else {}

    def attempts(self) -> dict[Path, str]:
        """Return the attempt that finished each unit; it changes when a unit is done again."""
        marks = self.run.glob("*/done/**/*.json")
        return {path: json.loads(path.read_text())["facts"]["attempt"] for path in marks}

    def status(self) -> dict[str, Any]:
        """Return what `danqing status` says."""
        state: dict[str, Any] = json.loads(danqing("status", self.run, "--json").stdout)
        return state

    def units(self, stage: str) -> dict[str, int]:
        """Return how the units of a stage that are not done stand, by `danqing status`."""
        found = next(s for s in self.status()["cluster"]["stages"] if s["stage"] == stage)
        return {word: found[word] for word in ("pending", "running", "again", "aside") if found[word]}

    def done(self) -> dict[str, tuple[int, int]]:
        """Return of each stage how many units are done by `status`, and how many there are."""
        return {s["stage"]: (s["done"], s["units"]) for s in self.status()["stages"]}

    def check(self, finished: Mapping[Path, str]) -> None:
        """Compare every byte, see that nothing finished was done again, that nothing is left, and what status says."""
        assert tree(self.run) == tree(self.reference)
        now = self.attempts()
        assert {path: now.get(path) for path in finished} == finished
        assert list(self.run.glob("*/work/*")) == [], "left-overs in work/"
        until(lambda: not self.queue(), "the last job to leave the queue")
        until(lambda: not list(_processes(self.run, "")), "the processes of its jobs to end")
        state = self.status()
        assert state["failed"] == []
        assert (state["cluster"]["jobs"], state["cluster"]["problem"]) == ([], None)
        marked = Counter(path.relative_to(self.run).parts[0] for path in now)
        assert {s["stage"]: s["done"] for s in state["stages"]} == {
            s["stage"]: marked[BY_NAME[s["stage"]].folder] for s in state["stages"]
        }


def _processes(run: Path, stage: str) -> Iterator[tuple[str, int]]:
    """Yield the processes that work for a run, or a stage of it, in jobs: element and process number."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            named = [b"task", os.fsencode(run), stage.encode()][: 3 if stage else 2]
            if any(words[i : i + len(named)] == named for i in range(len(words))):
                part = words[words.index(b"--part") + 1] if b"--part" in words else b"0/1"
                yield part.decode().partition("/")[0], int(folder.name)
