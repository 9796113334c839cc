"""What is shown while `run --wait` waits, and what the commands about a run on a cluster say in the end."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.crawl import DANQING
from tests.report.begun import begun, calls, done, fake, submitted
from toolkit.report.display import cancel_lines, step_lines
from toolkit.report.watch import Lines, counts
from toolkit.run.drive import Outcome
from toolkit.run.records import Record, name
from toolkit.run.scheduler import Live


def test_counts_are_those_of_marks_that_came_since(tmp_path: Path) -> None:
    run = begun(tmp_path)
    assert next(counts(run)) == ("source", 0, 12)
    done(run, 3)
    assert next(counts(run)) == ("source", 1, 12)


def test_a_log_gets_a_line_when_a_stage_is_further(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = begun(tmp_path, shards=200)
    done(run, 0)
    lines = Lines(run)
    lines.show()
    done(run, 1)
    lines.show()  # half a percent is no news
    assert capsys.readouterr().out == ""
    for unit in range(2, 5):
        done(run, unit)
    lines.show()
    lines.show()
    assert capsys.readouterr().out.partition(" ")[2] == "source: 5 of 200 units done\n"


def step(**more: object) -> SimpleNamespace:
    return SimpleNamespace(**({"submitted": [], "moving": [], "cancelled": "", "ended": False} | more))


def record(job: int, stage: str, units: str = "", tasks: int = 1) -> Record:
    return Record(job=job, stage=stage, units=units, tasks=tasks, submitted="")


def test_a_step_says_what_was_submitted_and_what_to_do_next(tmp_path: Path) -> None:
    run = begun(tmp_path)
    found = step(submitted=[record(7, "source", "0-11", 4), record(8, "advance")])
    root = run.layout.root
    assert list(step_lines(run, found)) == [
        "submitted source: 12 units in 4 tasks, job 7",
        "submitted job 8, which goes on with the run when they have ended; you may log out",
        f"Follow it:    danqing status {root}",
        f"Call it back: danqing cancel {root}",
    ]


def test_a_step_names_what_is_under_way(tmp_path: Path) -> None:
    found = step(moving=[Live(7, "x", "RUNNING", (0, 1), ""), Live(7, "x", "PENDING", (2,), "")])
    assert next(iter(step_lines(begun(tmp_path), found))) == "under way already: 1 job, 7"


def test_a_step_of_a_run_that_was_called_back_promises_nothing(tmp_path: Path) -> None:
    assert list(step_lines(begun(tmp_path), step(cancelled="by hand", outcome=Outcome()))) == []


def test_cancel_says_how_it_goes_on(tmp_path: Path) -> None:
    run = begun(tmp_path)
    assert list(cancel_lines(run, [7, 8])) == [
        "called back: 2 jobs, 7, 8",
        f"What is finished is kept; `danqing run CONFIG` or `danqing retry {run.layout.root}` goes on.",
    ]
    assert next(iter(cancel_lines(run, []))) == "no job of this run waits or runs"


def test_who_waits_may_stop_waiting_and_the_jobs_go_on(tmp_path: Path) -> None:
    run = begun(tmp_path)
    submitted(run, 7, "0-11", 4)
    moving = f"7|0-3|{name(run, 'source')}|RUNNING|None\n8|N/A|{name(run, 'advance')}|PENDING|Dependency\n"
    env = fake(tmp_path / "bin", squeue=moving)
    command = [*DANQING, "run", str(tmp_path / "run.yaml"), "--wait"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stdout is not None and waiting.stderr is not None
        assert waiting.stdout.readline() == "under way already: 2 jobs, 7, 8\n"
        while len(calls(tmp_path / "bin")) < 2:  # the second is asked while it waits
            assert waiting.poll() is None
        waiting.send_signal(signal.SIGINT)
        try:
            said = waiting.communicate(timeout=240)[1]
        finally:
            waiting.kill()
        assert waiting.returncode == 1
    root = run.layout.root
    assert said == (
        f"danqing: Interrupted, but the jobs go on. `danqing status {root}` shows how far they are, "
        f"`danqing cancel {root}` calls them back.\n"
    )
