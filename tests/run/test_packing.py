"""Units into tasks into arrays: every unit once, and never more than the cluster takes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.run.conftest import Tiny, make
from toolkit.config.config import check
from toolkit.data.stage import Stage
from toolkit.recipe import BY_NAME
from toolkit.run.packing import MOST_TASKS, pack, per_task, room, unit_seconds
from toolkit.run.run import Run
from toolkit.run.scheduler import Limits

ROOMY = Limits(array=1001, jobs=100_000, submit=None, minutes={"main": 240, "long": None}, partition="main")
SOURCE = BY_NAME["source"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make(tmp_path_factory.mktemp("packing"))


def at(run: Run, **site: Any) -> Run:
    """Return the run on another site."""
    tree = run.config.model_dump(mode="json")
    return Run(run.layout, check(tree | {"executor": tree["executor"] | {"site": site}}, "test"), "", run.shards)


def size(run: Run, seconds: float, units: int = 10_000, stage: Stage = SOURCE, **site: Any) -> int:
    """Return the units of a task, of shards that take so many seconds."""
    return per_task(at(run, **site), stage, units, ROOMY, seconds)


UNITS = st.sets(st.integers(0, 2000), min_size=1, max_size=300).map(sorted)


@given(units=UNITS, each=st.integers(1, 9), array=st.integers(1, 40), free=st.integers(1, 400))
def test_every_unit_once_in_arrays_that_are_taken(run: Run, units: list[int], each: int, array: int, free: int) -> None:
    limits = Limits(array=array, jobs=10**6, submit=None, minutes={}, partition=None)
    arrays = pack(at(run, shards_per_task=each), SOURCE, units, limits, free)
    chosen = [u for a in arrays for u in a.units]
    assert chosen == units[: free * each]
    assert all(1 <= a.tasks <= array for a in arrays)
    assert all(math.ceil(len(a.units) / a.tasks) <= each for a in arrays)
    assert sum(a.tasks for a in arrays) <= free


def test_sixty_shards_where_an_array_has_eleven_elements(run: Run) -> None:
    limits = Limits(array=11, jobs=10_000, submit=None, minutes={}, partition=None)
    arrays = pack(at(run, shards_per_task=1), SOURCE, range(60), limits, 1000)
    assert [a.tasks for a in arrays] == [11, 11, 11, 11, 11, 5]
    assert [u for a in arrays for u in a.units] == list(range(60))


def test_ten_thousand_shards_are_one_array(run: Run) -> None:
    (array,) = pack(at(run), SOURCE, range(10_000), ROOMY, 50_000, seconds=1200)
    assert (array.tasks, len(array.units)) == (MOST_TASKS, 10_000)


def test_nothing_is_submitted_where_there_is_no_room(run: Run) -> None:
    assert pack(run, SOURCE, range(4), ROOMY, 0) == []
    assert pack(run, SOURCE, [], ROOMY, 10) == []


def test_a_task_takes_about_twenty_minutes(run: Run) -> None:
    assert size(run, 10) == 120
    assert size(run, 10, cpus=4) == 480
    assert size(run, 10, minutes=5) == 18  # 0.6 of the time limit
    assert size(run, 5000) == 10  # 10,000 shards make no more than 1,000 tasks
    assert size(run, 5000, units=100) == 1
    assert size(run, 0.0, units=7) == 7


def test_the_limit_of_the_partition_counts_too(run: Run) -> None:
    short = Limits(array=1001, jobs=10_000, submit=None, minutes={"main": 5, "long": None}, partition="main")
    assert per_task(at(run), SOURCE, 500, short, 10) == 18
    assert per_task(at(run, partition="long"), SOURCE, 500, short, 10) == 120


def test_what_is_said_is_done(run: Run) -> None:
    assert size(run, 5000, shards_per_task=40) == 40
    assert size(run, 1, stage=BY_NAME["dedup"], shards_per_task=40) == 1


def test_before_anything_is_measured_the_size_of_the_input_tells(tmp_path: Path) -> None:
    """A whole crawl must not become one task because nothing was measured yet."""
    run = make(tmp_path, 2)
    for file in run.inputs:
        with Path(file.path).open("r+b") as opened:
            opened.truncate(150 * 20_000 * 60)  # 20,000 rows a second for a minute
    again = make(tmp_path, 2, name="again")
    assert unit_seconds(again, SOURCE) == pytest.approx(60)
    assert len(pack(again, SOURCE, range(2), ROOMY, 10)) == 1


def test_a_stage_whose_input_is_not_there_yet_is_packed_all_the_same(tiny: Tiny) -> None:
    run = tiny()
    for stage in run.stages:
        assert pack(run, stage, range(run.units(stage)), ROOMY, 100)


def test_room_is_what_the_tighter_limit_leaves() -> None:
    def left(jobs: int, submit: int | None, queued: int) -> int:
        return room(Limits(array=1001, jobs=jobs, submit=submit, minutes={}, partition=None), queued)

    assert left(10_000, None, 0) == 4999  # half is for others, one place for `advance`
    assert left(10_000, 50, 0) == 49
    assert left(10_000, 50, 20) == 29
    assert left(10_000, 50, 80) == 0
