"""What happens to jobs on a cluster, done to runs on a real Slurm: the bytes of `inline`, and nothing done twice."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.crawl import config, danqing
from tests.slurm.conftest import SlurmCluster
from tests.slurm.runs import Case, Site, ask, served, until

pytestmark = pytest.mark.prove

LAST = ("--until", "fetch")
# One answer at a time, ten to a checkpoint; an answer may be held back for as long as a test likes.
SLOWLY = {"concurrency": 1, "checkpoint": 10, "timeout_s": 3600}
# Two processors a task spread four tasks over both nodes.
SITE = {"mem_gb": 1, "cpus": 2, "shards_per_task": 1, "backoff_s": 0, "lead_s": 10}

Make = Callable[..., Case]


@pytest.fixture(scope="module")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "crawl"
    danqing("demo", "--make-only", folder, "--pairs", "600")
    return folder


@pytest.fixture(scope="module")
def site(crawl: Path) -> Iterator[Site]:
    with served(crawl) as running:
        yield running


@pytest.fixture(scope="module")
def prepared(crawl: Path, site: Site, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, int]:
    """A run that is done up to hosts, a copy that is done up to fetch, by `inline`, and how many requests that took."""
    folder = tmp_path_factory.mktemp("inline")
    danqing("run", configured(folder, crawl, site, name="begun"), "--until", "hosts")
    sources = sorted((folder / "begun" / "10_source" / "data").rglob("*.parquet"))
    assert len(sources) == 4
    site.shards = {url: n for n, path in enumerate(sources) for url in pq.read_table(path)["url"].to_pylist()}
    shutil.copytree(folder / "begun", folder / "reference", symlinks=True)
    before = site.hits().total()
    danqing("run", configured(folder, crawl, site, name="reference"), *LAST)
    return folder / "begun", folder / "reference", site.hits().total() - before


def configured(folder: Path, crawl: Path, site: Site, **options: Any) -> Path:
    fetch = {"resolve": {"*.example.test": site.address}, **SLOWLY}
    common: dict[str, Any] = {"executor": {"kind": "inline"}, "fetch": fetch}
    common["source"] = {"blacklist": str(crawl / "hosts.txt")}
    return config(folder, crawl, site.address, **common | options)


@pytest.fixture
def make(slurm: None, prepared: tuple[Path, Path, int], crawl: Path, site: Site, tmp_path: Path) -> Iterator[Make]:
    """What makes the case of a test, given options of the site: a run that has fetch before it."""
    begun, reference, _ = prepared

    def one(**options: Any) -> Case:
        shutil.copytree(begun, tmp_path / "run", symlinks=True)
        executor = {"kind": "slurm", "site": SITE | options}
        return Case(tmp_path / "run", configured(tmp_path, crawl, site, executor=executor), reference)

    yield one
    site.release()
    danqing("cancel", tmp_path / "run")


@pytest.fixture
def held(site: Site) -> Site:
    """The web server, which lets no task of fetch come to its end until it is released."""
    site.hold()
    return site


def halfway(case: Case) -> None:
    """Wait until each of the four tasks of fetch has made something safe."""
    until(lambda: len({p.parent for p in case.run.glob("30_fetch/work/*.parts-*/*.json")}) == 4, "four checkpoints")


def test_a_task_killed_by_sigkill(make: Make, held: Site) -> None:
    case = make()
    head = case.begin(*LAST)
    halfway(case)
    os.kill(case.at_work("fetch")["1"], signal.SIGKILL)
    finished = case.attempts()
    held.release()
    assert head.wait() == 0
    case.check(finished)
    assert case.sent("fetch") == ["0-3", "1"]
    case.accounted("fetch", FAILED=1, COMPLETED=4)


def test_tasks_preempted_by_a_job_of_higher_priority(make: Make, held: Site) -> None:
    case = make()
    head = case.begin(*LAST)
    halfway(case)
    finished = case.attempts()
    ask("sbatch", "--wait", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true")
    held.release()
    assert head.wait() == 0
    case.check(finished)
    case.accounted("fetch", PREEMPTED=4, COMPLETED=4)
    assert case.sent("fetch") == ["0-3"], "Slurm itself brings back what it preempts"


def test_a_whole_array_requeued(make: Make, held: Site) -> None:
    case = make()
    head = case.begin(*LAST)
    halfway(case)
    assert case.units("fetch") == {"running": 4}
    finished = case.attempts()
    ask("scontrol", "requeue", str(case.job("fetch")))
    until(lambda: case.ended("fetch")["REQUEUED"] == 4, "the tasks to be put back into the queue")
    held.release()
    assert head.wait() == 0
    case.check(finished)
    case.accounted("fetch", REQUEUED=4, COMPLETED=4)
    assert case.sent("fetch") == ["0-3"]


def test_tasks_that_reach_their_time_limit(make: Make, held: Site, prepared: tuple[Path, Path, int]) -> None:
    """Task 1 has no scontrol: what it leaves is submitted again; the others requeue themselves."""
    alone = '[ "$SLURM_ARRAY_TASK_ID" = 1 ] && PATH=/nowhere'
    # Slurm may warn half a minute early, and of one minute that would leave too little to start in on a busy machine.
    case = make(stages={"fetch": {"minutes": 2, "setup": [alone]}})
    before = held.hits().total()
    head = case.begin(*LAST)
    halfway(case)
    until(lambda: {"REQUEUED": 3, "FAILED": 1}.items() <= case.ended("fetch").items(), "the time limit")
    held.release()
    finished = case.attempts()
    assert head.wait() == 0
    case.check(finished)
    assert case.sent("fetch") == ["0-3", "1"]
    case.accounted("fetch", REQUEUED=3, FAILED=1, COMPLETED=4)
    # Asked again is what was under way: one picture a task. 10 and more of each were safe.
    assert held.hits().total() - before <= prepared[2] + 4 * 5


def test_a_node_that_fails_and_comes_back(make: Make, held: Site, cluster: SlurmCluster) -> None:
    case = make()
    head = case.begin(*LAST)
    halfway(case)
    cluster.kill_node("n1")
    held.release()
    until(lambda: case.ended("fetch")["NODE_FAIL"] == 2, "the failure of the node to be seen")
    cluster.start_node("n1")
    finished = case.attempts()
    assert head.wait() == 0
    case.check(finished)
    case.accounted("fetch", NODE_FAIL=2, COMPLETED=4)
    assert case.sent("fetch") == ["0-3"]


def test_the_same_run_submitted_twice_at_once(make: Make) -> None:
    case = make()
    heads = [case.begin(*LAST) for _ in range(2)]
    assert [head.wait() for head in heads] == [0, 0]
    case.check({})
    assert case.sent("fetch") == ["0-3"]


CRASH = """\
case "$SLURM_ARRAY_TASK_ID" in 1 | "") ;; *) exit ;; esac
while [ -e {bad} ] && ! ls -d {run}/30_fetch/work/000001.*/; do sleep 0.1; done
[ ! -e {bad} ] || kill -9 "$1"
"""


@pytest.mark.parametrize("when", ["before it begins", "at work"])
def test_a_task_that_always_crashes(make: Make, held: Site, tmp_path: Path, when: str) -> None:
    bad, script = tmp_path / "bad", tmp_path / "crash.sh"
    bad.touch()
    script.write_text(CRASH.format(bad=bad, run=tmp_path / "run"))
    at_once = f'[ -e {bad} ] && [ "${{SLURM_ARRAY_TASK_ID-1}}" = 1 ] && exit 9'
    case = make(stages={"fetch": {"setup": [at_once if when == "before it begins" else f"sh {script} $$ &"]}})
    head = case.begin(*LAST)
    until(lambda: case.at_work("fetch") and case.ended("fetch")["FAILED"], "fetch to begin, and the crash")
    held.release()
    assert head.wait() == 1
    assert case.sent("fetch") == ["0-3", "1", "1"]
    state = case.status()
    assert case.done()["fetch"] == (3, 4)
    told = [(f["stage"], f["unit"], f["attempts"], f["aside"]) for f in state["failed"]]
    assert told == [("fetch", 1, 3, True)]
    assert ("FAILED, exit code 9" if when == "before it begins" else "FAILED, signal 9") in state["failed"][0]["reason"]
    finished = case.attempts()
    bad.unlink()
    danqing("retry", case.run, "--wait", *LAST)
    case.check(finished)
    assert case.sent("fetch") == ["0-3", "1", "1", "1"]


def test_tasks_that_need_more_memory(make: Make, held: Site) -> None:
    case = make(stages={"fetch": {"mem_gb": 0.05}})
    head = case.begin(*LAST, "--set", "executor.retries=0")
    assert head.wait() == 1
    held.release()
    told = [(f["unit"], f["aside"], "raise mem_gb" in f["reason"]) for f in case.status()["failed"]]
    assert told == [(unit, True, True) for unit in range(4)]
    finished = case.attempts()
    danqing("run", case.config, *LAST, "--wait", "--set", "executor.site.stages.fetch.mem_gb=1")
    case.check(finished)
    assert case.sent("fetch") == ["0-3", "0-3"]


def test_a_run_called_back_and_taken_up_again(make: Make, held: Site) -> None:
    case = make()
    head = case.begin(*LAST)
    halfway(case)
    danqing("cancel", case.run)
    assert head.wait() == 1
    until(lambda: not case.queue(), "the jobs to end")
    held.release()
    case.accounted("fetch", CANCELLED=4)
    assert case.units("fetch") == {"pending": 4}
    assert case.sent("advance") == [""]
    finished = case.attempts()
    case.go(*LAST)
    case.check(finished)


def test_jobs_cancelled_behind_its_back(make: Make, held: Site) -> None:
    """`scancel` of everything at work: the run stops and says so, rather than send it all again."""
    case = make()
    head = case.begin(*LAST)
    halfway(case)
    finished = case.attempts()
    ask("scancel", str(case.job("fetch")))
    assert head.wait() == 1
    held.release()
    assert case.sent("fetch") == ["0-3"]
    case.go(*LAST)
    case.check(finished)


def test_the_job_that_goes_on_with_the_run_is_lost(make: Make, held: Site) -> None:
    case = make()
    danqing("run", case.config, *LAST)
    halfway(case)
    ask("scancel", str(case.job("advance")))
    until(lambda: not case.queue("advance"), "it to go")
    danqing("run", case.config, *LAST)
    assert len(case.queue("advance")) == 1
    danqing("run", case.config, *LAST)
    assert len(case.sent("advance")) == 2, "one is enough"
    finished = case.attempts()
    held.release()
    until(lambda: not case.queue(), "the jobs to end")
    case.check(finished)
    assert case.sent("fetch") == ["0-3"]


def test_the_job_that_goes_on_with_the_run_dies(make: Make, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.touch()
    case = make(stages={"advance": {"setup": [f"[ -e {bad} ] && kill -9 $$"]}})
    danqing("run", case.config, "--until", "image")
    until(lambda: not case.queue(), "the jobs to end")
    assert case.sent("image") == []
    assert case.status()["cluster"]["stuck"]
    bad.unlink()
    finished = case.attempts()
    case.go(*LAST)
    case.check(finished)
    assert case.sent("fetch") == ["0-3"]
