"""What a plan says a run asks of a cluster is what its submission does, packed within the cluster's limits."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from tests.crawl import danqing
from tests.report.begun import begun, calls, done, failed, fake
from toolkit.errors import UserError
from toolkit.report import schemas
from toolkit.report.display import plan_lines
from toolkit.run import forecast as module
from toolkit.run.forecast import ASSUMED, Forecast, StageJobs, forecast
from toolkit.run.plan import StagePlan, plan, tree
from toolkit.run.run import Run, open_run
from toolkit.run.scheduler import Limits


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No Slurm of this machine answers."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


def rows(run: Run, core_hours: float) -> list[StagePlan]:
    """A plan in which each stage takes so many core-hours."""
    return [
        StagePlan(
            stage=stage.name,
            kind=stage.kind.value,
            units=run.all_units(stage),
            done=0,
            rows=1,
            gigabytes=0.0,
            core_hours=core_hours,
        )
        for stage in run.stages
    ]


def stage(found: Forecast, name: str) -> StageJobs:
    return next(s for s in found.stages if s.stage == name)


def test_shards_are_packed_as_they_will_be(tmp_path: Path) -> None:
    run = begun(tmp_path, shards=12, shards_per_task=5, cpus=2, minutes=90)
    found = stage(forecast(run, rows(run, 12.0)), "source")
    assert (found.jobs, found.tasks, found.shards_per_task, found.cores, found.minutes) == (2, 3, 4, 2, 90)
    assert found.task_hours == found.hours == 2  # four shards of an hour, two at a time


def test_tasks_are_chosen_to_last_twenty_minutes(tmp_path: Path) -> None:
    run = begun(tmp_path, shards=12)
    found = stage(forecast(run, rows(run, 1.0)), "source")  # five minutes a shard
    assert (found.tasks, found.shards_per_task) == (3, 4)


def test_the_longest_chain_goes_through_every_stage(tmp_path: Path) -> None:
    run = begun(tmp_path, shards=12, shards_per_task=1)
    found = forecast(run, rows(run, 12.0))
    assert found.hours == pytest.approx(sum(s.hours for s in found.stages))
    assert (stage(found, "source").hours, stage(found, "words").hours, stage(found, "dedup").hours) == (1, 12, 12)


def test_a_throttle_makes_tasks_wait_for_each_other(tmp_path: Path) -> None:
    run = begun(tmp_path, shards=12, shards_per_task=1, throttle=5)
    found = stage(forecast(run, rows(run, 12.0)), "source")
    assert (found.task_hours, found.hours) == (1, 3)


def test_ranks_share_the_work_of_collective_stages(tmp_path: Path) -> None:
    run = begun(tmp_path, stages={"dedup": {"nodes": 2, "ranks": 3, "cpus": 2}})
    found = forecast(run, rows(run, 12.0))
    assert (stage(found, "dedup").cores, stage(found, "dedup").hours) == (12, 1)
    assert stage(found, "merge").hours == 12


def test_limits_of_the_cluster_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(array=4, jobs=10_000, submit=9, minutes={"main": 240}, partition="main")
    monkeypatch.setattr(module.scheduler, "limits", lambda: limits)
    run = begun(tmp_path, shards=12, shards_per_task=1)
    found = forecast(run, rows(run, 12.0))
    assert (found.limits_read, found.max_array, found.max_tasks) == (True, 4, 8)
    assert (stage(found, "source").jobs, stage(found, "source").tasks) == (5, 12)  # two arrays, advance, one, advance
    assert (stage(found, "source").minutes, stage(found, "source").hours) == (240, 2)


def test_what_is_done_or_set_aside_is_not_submitted(tmp_path: Path) -> None:
    run = begun(tmp_path, shards=12, shards_per_task=1)
    for unit in range(4):
        done(run, unit, seconds=1800)
    failed(run, 4, attempts=3)
    found = stage(forecast(open_run(run.layout.root), rows(run, 12.0)), "source")
    assert (found.tasks, found.task_hours) == (7, 0.5)  # measured, no longer estimated


def test_where_jobs_may_not_submit_there_is_none_behind_a_stage(tmp_path: Path) -> None:
    run = begun(tmp_path, advance=False)
    assert stage(forecast(run, rows(run, 1.0)), "words").jobs == 1


def test_the_closing_unit_comes_by_itself(tmp_path: Path) -> None:
    run = begun(tmp_path, shards=12, shards_per_task=12)
    found = stage(forecast(run, rows(run, 1.0)), "export")
    assert (found.jobs, found.tasks) == (4, 2)


def test_a_site_that_no_job_can_use_is_refused(tmp_path: Path) -> None:
    run = begun(tmp_path, stages={"emded": {"cpus": 2}})
    with pytest.raises(UserError, match="names 'emded'; known are source"):
        forecast(run, rows(run, 1.0))
    run = begun(tmp_path / "100%")
    with pytest.raises(UserError, match="the character '%'"):
        forecast(run, rows(run, 1.0))


def test_the_plan_says_what_is_assumed_and_what_is_too_long(tmp_path: Path) -> None:
    run = begun(tmp_path, shards=12, shards_per_task=12, minutes=60)
    planned = rows(run, 12.0)
    said = "\n".join(plan_lines(tree(run, planned, forecast(run, planned))))
    assert f"Limits assumed, since Slurm could not be asked: arrays of {ASSUMED.array:,}, 4,999 tasks" in said
    assert "source: its longest task may take 720 minutes and asks for 60; raise minutes" in said


def test_the_command_reads_the_limits_and_submits_nothing(tmp_path: Path) -> None:
    begun(tmp_path)
    env = fake(
        tmp_path / "bin",
        scontrol="MaxArraySize            = 11\nMaxJobCount             = 100\n",
        sinfo="main*|4:00:00\n",
        sacctmgr="7|\n",
        sbatch="",
    )
    env["PATH"] += ":/usr/bin:/bin"
    found = json.loads(danqing("plan", tmp_path / "run.yaml", "--json", env=env).stdout)
    assert json.loads(msgspec.json.encode(msgspec.convert(found, schemas.Plan))) == found
    assert (found["cluster"]["limits_read"], found["cluster"]["max_array"], found["cluster"]["max_tasks"]) == (
        True,
        11,
        6,
    )
    assert {s["minutes"] for s in found["cluster"]["stages"]} == {240}
    assert "sbatch" not in calls(tmp_path / "bin")


def test_a_local_plan_has_no_cluster(tmp_path: Path) -> None:
    run = begun(tmp_path, kind="local")
    found = tree(run, plan(run))
    assert found["cluster"] is None
    assert not [line for line in plan_lines(found) if "sbatch" in line]
