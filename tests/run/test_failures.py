"""Why units failed and how often: one file a unit, as long as it is not done."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fake_slurm import Slurm
from tests.run.conftest import Tiny
from toolkit.errors import WorkError
from toolkit.recipe import BY_NAME
from toolkit.report.display import Log
from toolkit.run import failures, files, job
from toolkit.run.run import Run

SOURCE = BY_NAME["source"]


@pytest.fixture
def run(slurm: Slurm, tiny: Tiny) -> Run:
    return tiny()


def test_attempts_are_counted_and_the_last_reason_stays(run: Run) -> None:
    failures.note(run, SOURCE, 3, "first")
    failures.note(run, SOURCE, 3, "second", job="12_3")
    (found,) = failures.failures(run, SOURCE)
    assert (found.unit, found.attempts, found.reason, found.job) == (3, 2, "second", "12_3")


def test_the_job_is_that_of_this_process_where_nobody_says(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    failures.note(run, SOURCE, 0, "x")
    found = failures.read(run, SOURCE, 0)
    assert found is not None
    assert found.job == "12_3"


def test_an_error_is_one_line_with_its_trace_beside_it(run: Run) -> None:
    def fail(error: Exception) -> failures.Failure:
        try:
            raise error
        except type(error) as raised:
            failures.note(run, SOURCE, 0, raised)
        found = failures.read(run, SOURCE, 0)
        assert found is not None
        return found

    found = fail(ValueError("two\nlines"))
    assert (found.reason, "test_failures.py" in found.trace) == ("ValueError: two lines", True)
    assert fail(WorkError("said in words")).reason == "said in words"


def test_a_unit_is_set_aside_when_its_retries_are_used_up(run: Run) -> None:
    for _ in range(run.config.executor.retries):
        failures.note(run, SOURCE, 1, "again")
    assert failures.aside(run, SOURCE) == {}
    failures.note(run, SOURCE, 1, "enough")
    assert failures.aside(run, SOURCE) == {1: "enough"}
    failures.forgive(run)
    assert failures.aside(run, SOURCE) == {}


def test_a_unit_that_is_done_since_has_not_failed(run: Run) -> None:
    failures.note(run, SOURCE, 1, "first")
    job.work(run, SOURCE, [1], Log(run))
    assert list(failures.failures(run, SOURCE)) == []
    assert not run.layout.failure(SOURCE, 1).exists()


def test_a_damaged_record_is_none(run: Run) -> None:
    failures.note(run, SOURCE, 1, "first")
    run.layout.failure(SOURCE, 1).write_bytes(b"{")
    assert (failures.read(run, SOURCE, 1), list(failures.failures(run, SOURCE))) == (None, [])
    failures.note(run, SOURCE, 1, "second")
    assert [f.attempts for f in failures.failures(run, SOURCE)] == [1]


def test_a_full_disk_does_not_hide_the_reason(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "replace", full)
    assert failures.note(run, SOURCE, 1, "the reason") == "the reason"
