"""Kill it in every stage and run it again: the bytes of an undisturbed run, and nothing finished is done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crawl import alive, config, danqing, start, tree
from tests.site import Server, serve
from toolkit.recipe import STAGES

PATIENCE_S = 900  # for what must happen, however loaded the machine is
RUN = [stage for stage in STAGES if stage.name != "align"]


@pytest.fixture(scope="module")
def server(crawl: Path) -> Iterator[Server]:
    with serve(json.loads((crawl / "site.json").read_text()), crawl / "site") as running:
        yield running


def work_begins(process: subprocess.Popen[bytes], stage: Path) -> bool:
    """Wait until the stage has an attempt's folder, or a mark already; False if the command ended first."""
    while process.poll() is None:
        if any(stage.glob("work/*/")) or any(stage.glob("done/*/*.json")):
            return True
        time.sleep(0.002)
    return False


def marks(run: Path) -> dict[Path, int]:
    """Return the finished units: mark -> inode, which changes when a unit is done again."""
    return {path: path.stat().st_ino for path in run.glob("*/done/**/*.json")}


def test_one_kill_in_each_stage_changes_no_byte(crawl: Path, server: Server, tmp_path: Path) -> None:
    path = config(tmp_path, crawl, server.address)
    run = tmp_path / "run"
    finished: dict[Path, int] = {}
    killed = []
    for stage in RUN:
        process = start("run", path)
        if work_begins(process, run / stage.folder):
            os.killpg(process.pid, signal.SIGKILL)
            killed.append(stage.name)
        process.wait()
        now = marks(run)
        assert {p: i for p, i in now.items() if p in finished} == finished
        finished = now
    hits = server.hits()
    fetched = (run / "30_fetch" / "done.parquet").exists()
    danqing("run", path)
    assert {p: i for p, i in marks(run).items() if p in finished} == finished
    # Each kill met a running command; the last stages are short, but most must have been hit in the middle.
    assert len(killed) >= len(RUN) - 2
    assert fetched
    assert server.hits() == hits, "a finished fetch stage asked the server again"

    undisturbed = config(tmp_path, crawl, server.address, name="undisturbed", executor={"kind": "inline"})
    danqing("run", undisturbed)
    assert tree(run) == tree(tmp_path / "undisturbed")
    assert json.loads(danqing("verify", run, "--json").stdout)["problems"] == []


def children(pid: int) -> list[int]:
    """Return the worker processes of the head process."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(c) for c in listed if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]


def test_a_killed_worker_costs_one_attempt_and_no_process_is_left(crawl: Path, server: Server, tmp_path: Path) -> None:
    path = config(tmp_path, crawl, server.address)
    process = start("run", path)
    assert work_begins(process, tmp_path / "run" / "40_image")
    victim = children(process.pid)[0]
    os.kill(victim, signal.SIGKILL)
    assert process.wait(timeout=PATIENCE_S) == 0
    state = json.loads(danqing("status", tmp_path / "run", "--json").stdout)
    assert state["complete"]
    assert state["failed"] == []


def test_a_killed_head_takes_its_workers_along(crawl: Path, server: Server, tmp_path: Path) -> None:
    process = start("run", config(tmp_path, crawl, server.address))
    assert work_begins(process, tmp_path / "run" / "40_image")
    workers = children(process.pid)
    assert workers
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + PATIENCE_S
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [pid for pid in workers if alive(pid)]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_stops_says_so_and_goes_on_later(
    crawl: Path, server: Server, tmp_path: Path, signum: signal.Signals
) -> None:
    path = config(tmp_path, crawl, server.address)
    process = start("run", path)
    assert work_begins(process, tmp_path / "run" / "40_image")
    os.kill(process.pid, signum)
    assert process.wait(timeout=PATIENCE_S) == 1
    danqing("run", path)
