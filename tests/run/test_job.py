"""The inside of a job: its units, and how it leaves."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fake_slurm import Element, Slurm
from tests.run.conftest import Tiny
from toolkit.errors import UserError
from toolkit.recipe import BY_NAME
from toolkit.report.display import Log
from toolkit.run import files, job, jobs, signals
from toolkit.run.failures import read

SOURCE = BY_NAME["source"]


@given(st.integers(0, 200), st.integers(1, 50))
def test_parts_cover_all_units_once(units: int, count: int) -> None:
    parts = [job.part(range(units), f"{i}/{count}") for i in range(count)]
    assert [u for part in parts for u in part] == list(range(units))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["3/3", "-1/3", "1", "a/b", "/", "1/0", ""])
def test_wrong_parts_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="--part"):
        job.part(range(9), text)


@pytest.mark.parametrize("text", ["9", "3-1", "a", "1-", "0-9", "-1", "1,,2"])
def test_wrong_units_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="--units"):
        job.numbers(text, 9)


def test_no_units_are_all() -> None:
    assert job.numbers("", 3) == [0, 1, 2]
    assert job.numbers("2,0-1,1", 3) == [0, 1, 2]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let this process be asked to stop."""
    monkeypatch.setattr(signals, "_asked", None)
    return lambda signum: monkeypatch.setattr(signals, "_asked", int(signum))


def inside(slurm: Slurm, monkeypatch: pytest.MonkeyPatch, element: Element) -> None:
    for name, value in slurm.start(element).items():
        monkeypatch.setenv(name, value)


def test_a_task_does_its_units_and_no_others(slurm: Slurm, tiny: Tiny, asked: Any) -> None:
    run = tiny()
    outcome = job.work(run, SOURCE, [1, 2], Log(run))
    assert (outcome.complete, outcome.done, sorted(run.marks(SOURCE))) == (True, 2, [1, 2])


def test_a_task_tries_a_unit_once(slurm: Slurm, tiny: Tiny, asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny()
    for file in run.inputs[:2]:
        file_path = run.layout.root.parent / file.path
        file_path.unlink()
    record = jobs.submit(run, SOURCE, range(4), 2, {})
    inside(slurm, monkeypatch, Element(record.job, 0))
    outcome = job.work(run, SOURCE, [0, 1, 2], Log(run))
    assert sorted(run.marks(SOURCE)) == [2]
    assert sorted(outcome.aside) == [("source", 0), ("source", 1)]
    failure = read(run, SOURCE, 0)
    assert failure is not None
    assert (failure.attempts, failure.job) == (1, f"{record.job}_0")


def test_the_warning_of_the_time_limit_requeues_this_element_alone(
    slurm: Slurm, tiny: Tiny, asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny()
    record = jobs.submit(run, SOURCE, range(4), 4, {})
    inside(slurm, monkeypatch, Element(record.job, 2))
    asked(signal.SIGUSR2)
    lines = list(job.leave(run))
    assert slurm.calls("scontrol") == [["requeue", f"{record.job}_2"]]
    assert ["SIGUSR2" in lines[0], "queue again" in lines[1]] == [True, True]
    assert slurm.slept == []  # Slurm waits for the process to end


def test_a_call_to_end_requeues_nothing(slurm: Slurm, tiny: Tiny, asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny()
    record = jobs.submit(run, SOURCE, range(4), 4, {})
    inside(slurm, monkeypatch, Element(record.job, 2))
    asked(signal.SIGTERM)
    assert len(list(job.leave(run))) == 1
    assert slurm.calls("scontrol") == []


def test_a_run_that_was_called_back_requeues_nothing(
    slurm: Slurm, tiny: Tiny, asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny()
    record = jobs.submit(run, SOURCE, range(4), 4, {})
    inside(slurm, monkeypatch, Element(record.job, 2))
    files.replace(run.layout.cancelled, b"by me")
    asked(signal.SIGUSR2)
    list(job.leave(run))
    assert slurm.calls("scontrol") == []


def test_a_node_without_scontrol_is_told_so(
    slurm: Slurm, tiny: Tiny, asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny()
    record = jobs.submit(run, SOURCE, range(4), 4, {})
    inside(slurm, monkeypatch, Element(record.job, 2))
    (slurm.bin / "scontrol").unlink()
    monkeypatch.setenv("PATH", str(slurm.bin))
    asked(signal.SIGUSR2)
    assert "can not requeue itself" in list(job.leave(run))[-1]
    assert slurm.slept == []


def test_outside_of_jobs_there_is_nothing_to_leave(slurm: Slurm, tiny: Tiny, asked: Any) -> None:
    asked(signal.SIGUSR2)
    assert list(job.leave(tiny())) == []


def test_a_unit_that_needs_more_than_the_time_limit_has_failed(
    slurm: Slurm, tiny: Tiny, asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its element would requeue itself for ever."""
    run = tiny()
    from toolkit.run import executors

    def slow(run: Any, stage: Any, unit: int, on_advance: Any) -> executors.Event:
        asked(signal.SIGUSR2)
        return executors.Event("stopped", unit)

    monkeypatch.setattr(executors, "_attempt", lambda *given: slow(*given[:4]))
    outcome = job.work(run, SOURCE, [1, 2], Log(run))
    failure = read(run, SOURCE, 1)
    assert failure is not None
    assert "time limit" in failure.reason
    assert read(run, SOURCE, 2) is None
    assert (outcome.stopped, outcome.complete) == (False, False)


def test_one_that_was_stopped_early_has_not(
    slurm: Slurm, tiny: Tiny, asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where preemption is announced by the same signal."""
    run = tiny(site={"minutes": 60})
    from toolkit.run import executors

    def slow(*given: Any) -> executors.Event:
        asked(signal.SIGUSR2)
        return executors.Event("stopped", given[2])

    monkeypatch.setattr(executors, "_attempt", slow)
    outcome = job.work(run, SOURCE, [1, 2], Log(run))
    assert read(run, SOURCE, 1) is None
    assert outcome.stopped
