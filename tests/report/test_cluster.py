"""What status says of a run's jobs: every unit in one state, pace and end, why jobs wait, and two calls at most."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.crawl import danqing
from tests.report.begun import NOON, NOW, SOURCE, begun, calls, done, failed, fake, submitted, write
from toolkit.report import schemas
from toolkit.report.cluster import Answer, Jobs, lines, rate, state, told
from toolkit.report.status import lines as status_lines
from toolkit.report.status import status
from toolkit.run.failures import failures
from toolkit.run.records import name, records
from toolkit.run.run import Run, open_run
from toolkit.run.scheduler import Ended, Live


def seen(run: Run, live: Sequence[Live] | None = (), history: dict[Any, Ended] | None = None) -> dict[str, Any]:
    """The state of a run's jobs with what Slurm would have said."""
    run = open_run(run.layout.root)
    found = {stage.name: list(failures(run, stage)) for stage in run.stages}
    problem = "" if live is not None else "there is no Slurm here"
    return state(Jobs(run, found, records(run)), Answer(live, history or {}, problem), NOW)


def source(found: dict[str, Any]) -> dict[str, Any]:
    return next(s for s in found["stages"] if s["stage"] == "source")


def job(run: Run, number: int, state: str, tasks: Sequence[int], reason: str = "", stage: str = "source") -> Live:
    return Live(number, name(run, stage), state, tuple(tasks), reason)


def test_each_unit_that_is_not_done_is_in_one_state(tmp_path: Path) -> None:
    run = begun(tmp_path)
    submitted(run, 7, "0-11", 4)  # task 0 has 0-2, 1 has 3-5, ...
    for unit in (0, 3):
        done(run, unit)
    failed(run, 1, attempts=1)  # at work again
    failed(run, 6, attempts=1)
    failed(run, 7, attempts=3)
    found = source(
        seen(run, [job(run, 7, "RUNNING", [0]), job(run, 7, "COMPLETING", [1]), job(run, 7, "PENDING", [2, 3])])
    )
    assert {k: found[k] for k in ("running", "pending", "again", "aside")} == {
        "running": 4,  # 1, 2, 4, 5
        "pending": 4,  # 8-11
        "again": 1,
        "aside": 1,
    }


@settings(max_examples=20)
@given(
    finished=st.sets(st.integers(0, 11)),
    tried=st.dictionaries(st.integers(0, 11), st.integers(1, 4)),
    at_work=st.sets(st.integers(0, 3)),
)
def test_the_states_add_up(
    tmp_path_factory: pytest.TempPathFactory, finished: set[int], tried: dict[int, int], at_work: set[int]
) -> None:
    run = begun(tmp_path_factory.mktemp("run"))
    submitted(run, 7, "0-11", 4)
    for unit in finished:
        done(run, unit)
    for unit, attempts in tried.items():
        failed(run, unit, attempts=attempts)
    found = source(seen(run, [job(run, 7, "RUNNING", sorted(at_work))] if at_work else []))
    counts = [found[key] for key in ("pending", "running", "again", "aside")]
    assert min(counts) >= 0 and sum(counts) == 12 - len(finished)
    assert found["aside"] == sum(attempts > 2 and unit not in finished for unit, attempts in tried.items())


def test_the_pace_is_that_of_units_that_ran_side_by_side(tmp_path: Path) -> None:
    run = begun(tmp_path)
    submitted(run, 7, "0-11", 12)
    for unit in range(6):  # six at once, an hour each
        done(run, unit, seconds=3600)
    found = source(seen(run, [job(run, 7, "RUNNING", range(6, 12))]))
    assert found["rate"] == 6
    assert found["ends"] == "2026-05-28T21:26+00:00"  # an hour after NOW, when the other six are done


def test_the_pace_is_that_of_the_last_stretch(tmp_path: Path) -> None:
    run = begun(tmp_path)
    done(run, 0, ended=NOON - 86_400)  # the day before; then nothing for a day
    for unit in range(1, 11):
        done(run, unit, ended=NOON - 60 * (10 - unit))
    assert rate(open_run(run.layout.root).marks(SOURCE)) == pytest.approx(60)


def test_there_is_no_pace_where_nothing_runs_or_nothing_was_done(tmp_path: Path) -> None:
    run = begun(tmp_path)
    submitted(run, 7, "0-11", 1)
    assert source(seen(run, [job(run, 7, "RUNNING", [0])]))["rate"] is None
    done(run, 0)
    assert source(seen(run, [job(run, 7, "PENDING", [0])]))["ends"] is None


def test_jobs_are_told_with_the_reason_why_they_wait(tmp_path: Path) -> None:
    run = begun(tmp_path)
    live = [
        job(run, 7, "RUNNING", range(3), "None"),
        job(run, 7, "PENDING", range(3, 10), "JobArrayTaskLimit"),
        job(run, 8, "PENDING", [0], "Dependency", stage="advance"),
    ]
    assert list(lines("/runs/a", seen(run, live))) == [
        "job 7 source: 7 tasks waiting: JobArrayTaskLimit (as many of its array run as `throttle` allows)",
        "job 7 source: 3 tasks running",
        "job 8 advance: 1 task waiting: Dependency (it waits for the jobs before it)",
    ]


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("QOSMaxJobsPerUserLimit", "a limit of your qos is reached; it goes on when something of yours has ended"),
        ("AssocGrpCpuLimit", "a limit of your account is reached; it goes on when something of yours has ended"),
        ("(Priority,Resources)", "others come first"),
        ("ReqNodeNotAvail, UnavailableNodes:n1", "nodes that it needs are down or reserved, often for maintenance"),
        ("launch failed requeued held", "it is held; `scontrol release` lets it go"),
        ("SomethingOfTheFuture", ""),
    ],
)
def test_reasons_are_put_into_words(reason: str, words: str) -> None:
    assert told(reason) == words


def test_what_ended_badly_and_was_not_judged_is_told(tmp_path: Path) -> None:
    run = begun(tmp_path)
    submitted(run, 7, "0-11", 12)
    done(run, 0)
    failed(run, 3, job="7_3")
    history = {
        (7, 0): Ended("FAILED", "1:0", "n1", ()),  # its unit is done: no matter
        (7, 1): Ended("OUT_OF_MEMORY", "0:125", "n1", ()),
        (7, 2): Ended("TIMEOUT", "0:0", "n1", ()),
        (7, 3): Ended("FAILED", "1:0", "n1", ()),  # said itself why
        (7, 4): Ended("PENDING", "0:0", "n2", ("PREEMPTED",)),
    }
    live = [job(run, 7, "PENDING", [4], "BeginTime"), job(run, 7, "RUNNING", range(5, 12))]
    found = seen(run, live, history)["ended"]
    assert [(e["state"], e["tasks"]) for e in found] == [("OUT_OF_MEMORY", 1), ("PREEMPTED", 1), ("TIMEOUT", 1)]
    assert found[0]["why"].startswith("it used more memory than it asked for; raise mem_gb (OUT_OF_MEMORY")
    assert found[1]["why"].startswith("it was preempted")


def test_where_nothing_moves_it_says_how_to_go_on(tmp_path: Path) -> None:
    run = begun(tmp_path / "a b")
    failed(run, 3, attempts=3)
    (line,) = lines(str(run.layout.root), seen(run))
    assert line == (
        "Nothing moves and the run is not complete. Set aside: 1 of its units; mend the cause. "
        f"Then `danqing run CONFIG` or `danqing retry '{run.layout.root}'` goes on."
    )
    assert list(lines("/runs/a", seen(run, [job(run, 8, "RUNNING", [0], stage="advance")]))) == [
        "job 8 advance: 1 task running"
    ]


def test_a_run_that_was_called_back_says_so(tmp_path: Path) -> None:
    run = begun(tmp_path)
    write(run.layout.cancelled, b"`danqing cancel` at \x1b[31mnoon")
    said = list(lines("/runs/a", seen(run)))
    assert said[0] == r"Cancelled: `danqing cancel` at \x1b[31mnoon."
    assert said[1].startswith("Nothing moves")


def test_without_slurm_all_but_the_jobs_is_there(tmp_path: Path) -> None:
    run = begun(tmp_path)
    submitted(run, 7, "0-11", 4)
    done(run, 0)
    failed(run, 5, attempts=1)
    found = seen(run, None)
    assert found["stuck"] is None and not found["jobs"]
    assert (source(found)["pending"], source(found)["again"]) == (10, 1)
    assert list(lines("/runs/a", found)) == [
        "Slurm could not be asked, so nobody knows what moves: there is no Slurm here"
    ]


# The command, with commands of Slurm that count how often they are called


def test_status_calls_slurm_twice_at_most(tmp_path: Path) -> None:
    run = begun(tmp_path)
    submitted(run, 5, "0-11", 6, settled=True)
    submitted(run, 7, "0-5", 6)
    submitted(run, 8, "6-11", 6)
    env = fake(
        tmp_path / "bin",
        squeue=f"7|0-3|{name(run, 'source')}|PENDING|Priority\n7|4|{name(run, 'source')}|RUNNING|None\n",
        sacct="7_5|TIMEOUT|0:0|n1\n8_[0-5]|CANCELLED by 0|0:0|n1\n",
    )
    found = json.loads(danqing("status", run.layout.root, "--json", env=env).stdout)
    assert calls(tmp_path / "bin") == ["squeue", "sacct"]
    assert json.loads(msgspec.json.encode(msgspec.convert(found, schemas.Status))) == found
    assert [(e["job"], e["state"], e["tasks"]) for e in found["cluster"]["ended"]] == [
        (7, "TIMEOUT", 1),
        (8, "CANCELLED", 6),
    ]


def test_status_asks_for_the_past_only_where_something_ended_undone(tmp_path: Path) -> None:
    run = begun(tmp_path)
    submitted(run, 7, "0-11", 2)
    for unit in range(6):
        done(run, unit)
    env = fake(tmp_path / "bin", squeue=f"7|1|{name(run, 'source')}|RUNNING|None\n", sacct="")
    said = danqing("status", run.layout.root, env=env).stdout
    assert calls(tmp_path / "bin") == ["squeue"]
    assert "  6 running, " in said and "job 7 source: 1 task running" in said


def test_status_of_a_local_run_asks_nobody(tmp_path: Path) -> None:
    run = begun(tmp_path, kind="local")
    failed(run, 3, attempts=1)
    failed(run, 4, attempts=3)
    env = fake(tmp_path / "bin", squeue="", sacct="")
    said = danqing("status", run.layout.root, env=env).stdout
    assert calls(tmp_path / "bin") == []
    assert "pending, 1 failed, 1 set aside" in said


def test_what_a_failure_and_its_log_say_is_shown_safely(tmp_path: Path) -> None:
    run = begun(tmp_path, kind="inline")
    failed(run, 3, reason="\x1b[2Jgone\u202e", job="7_1")
    write(run.layout.logs(SOURCE) / "7_1.log", b"first\n" * 9 + b"last \x1b]0;title\x07 \xff\n")
    said = [*status_lines(status(open_run(run.layout.root)))]
    assert any(r"failed: source 000003: \x1b[2Jgone\u202e (attempt 1, job 7_1;" in line for line in said)
    assert said[said.index("  | first") + 4] == "  | last \\x1b]0;title\\x07 �"
    assert "".join(said).isprintable()


def test_status_starts_without_what_submits() -> None:
    code = "import sys, toolkit.report.status, toolkit.report.display; print(*sorted(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"submitit", "mpi4py"} & {module.partition(".")[0] for module in found}
