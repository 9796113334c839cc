"""What is remembered of a submission: its units, who has which, and that a bad record breaks nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.run.conftest import Tiny
from toolkit.errors import UserError
from toolkit.run import files, records
from toolkit.run.job import numbers
from toolkit.run.records import Record

UNITS = st.sets(st.integers(0, 300), min_size=1).map(sorted)


def record(units: list[int], tasks: int) -> Record:
    return Record(
        job=7, stage="source", units=records.ranges(units), tasks=tasks, submitted="2026-01-01T00:00:00+00:00"
    )


@given(UNITS)
def test_ranges_are_read_back(units: list[int]) -> None:
    text = records.ranges(units)
    assert numbers(text, 301) == records.listed(text) == units


@given(UNITS, st.integers(1, 12))
def test_the_tasks_of_a_submission_have_each_unit_once(units: list[int], tasks: int) -> None:
    kept = record(units, tasks)
    shares = [kept.share(task) for task in range(tasks)]
    assert [u for share in shares for u in share] == units
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(UNITS, st.integers(1, 12))
def test_the_task_of_a_unit_is_the_one_that_has_it(units: list[int], tasks: int) -> None:
    kept = record(units, tasks)
    owners = {u: task for task in range(tasks) for u in kept.share(task)}
    assert {u: kept.task_of(u) for u in units} == owners
    assert kept.task_of(301) is None


def test_records_come_in_order_and_a_damaged_one_is_passed_over(tiny: Tiny) -> None:
    run = tiny()
    files.private(run.layout.jobs)
    for number in (12, 3):
        records.write(run, Record(job=number, stage="source", units="0", tasks=1, submitted=""))
    run.layout.job(5).write_bytes(b'{"job": 5')
    run.layout.job(6).write_bytes(b'["no", "record"]')
    assert [r.job for r in records.records(run)] == [3, 12]


def test_a_run_without_jobs_has_no_records(tiny: Tiny) -> None:
    assert records.records(tiny()) == []


def test_names_tell_runs_apart_and_say_the_stage(tiny: Tiny) -> None:
    one, other = tiny(), tiny(name="other")
    assert not records.names(one).keys() & records.names(other).keys()
    assert records.names(one)[records.name(one, "fetch")] == "fetch"
    assert records.names(one)[records.name(one, "advance")] == "advance"


@pytest.mark.parametrize("name", ["100%", "back\\slash", "new\nline", "bell\x07"])
def test_folders_that_no_script_can_name_are_refused(tiny: Tiny, name: str) -> None:
    with pytest.raises(UserError, match="run_dir"):
        records.check(tiny(name=name))


@pytest.mark.parametrize("name", ["a b", "it's", 'quo"te', "semi;colon", "中文", "$HOME", "`id`", "#", "*", "a,b"])
def test_other_odd_folders_are_not(tiny: Tiny, name: str) -> None:
    records.check(tiny(name=name))


def test_a_stage_that_does_not_exist_is_named(tiny: Tiny) -> None:
    with pytest.raises(UserError, match=r"executor\.site\.stages names 'fetsch'; known are source"):
        records.check(tiny(site={"stages": {"fetsch": {"cpus": 2}}}))


def test_where_a_log_lies(tiny: Tiny) -> None:
    run = tiny()
    stage = run.stages[0]
    assert records.log(run, stage, "12_3") == Path(run.layout.logs(stage), "12_3.log")
    # Slurm's number for %a where a job is no array
    assert records.log(run, stage, "12") == Path(run.layout.logs(stage), "12.log")
