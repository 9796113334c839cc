"""A run on a cluster, step by step: what is submitted next, what counts as a failure, and that it always ends."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fake_slurm import Element, Slurm
from tests.run.conftest import Tiny, make
from toolkit import cli
from toolkit.errors import WorkError
from toolkit.recipe import BY_NAME
from toolkit.report.display import Log
from toolkit.run import advance, clock, failures, files, job, jobs, records, scheduler
from toolkit.run.advance import Step
from toolkit.run.run import Run, open_run

SOURCE = BY_NAME["source"]
pytestmark = pytest.mark.usefixtures("swift")


# ------------------------------------------------------------------------------------------------- what jobs would do


@contextmanager
def inside(slurm: Slurm, element: Element) -> Iterator[list[str]]:
    """Be in a job; yield the words of its command."""
    env = slurm.start(element)
    before = dict(os.environ)
    os.environ.update(env)
    line = slurm.job(element.job)["script"].strip().splitlines()[-1]
    try:
        yield shlex.split(line.replace("$SLURM_ARRAY_TASK_ID", str(element.index)))
    finally:
        os.environ.clear()
        os.environ.update(before)


def units_of(slurm: Slurm, run: Run, element: Element) -> Sequence[int]:
    line = slurm.job(element.job)["script"].strip().splitlines()[-1]
    words = shlex.split(line.replace("$SLURM_ARRAY_TASK_ID", str(element.index)))
    units = job.numbers(words[words.index("--units") + 1], 10_000)
    return job.part(units, words[words.index("--part") + 1]) if "--part" in words else units


def stage_of(slurm: Slurm, element: Element) -> str:
    return str(slurm.job(element.job)["name"]).rpartition("-")[2]


def do(slurm: Slurm, root: Path, element: Element) -> None:
    """Let a task do all its units."""
    with inside(slurm, element):
        run = open_run(root)
        job.work(run, BY_NAME[stage_of(slurm, element)], units_of(slurm, run, element), Log(run))
    slurm.end(element)


def leave_behind(run: Run, unit: int) -> Path:
    """Leave what an attempt leaves that was killed on another node."""
    folder = files.make(run.layout.attempt(SOURCE, unit, f"othernode-1234-{unit:08x}"))
    (folder / "000000.parquet").write_bytes(b"half")
    return folder


def step(run: Run, until: str | None = "source") -> Step:
    return advance.hold(open_run(run.layout.root), until)


def follow(slurm: Slurm, run: Run, until: str | None = "source") -> Step:
    """Run the advance job that can start now."""
    (element,) = [e for e in slurm.able() if stage_of(slurm, e) == "advance"]
    with inside(slurm, element):
        taken = step(run, until)
    slurm.end(element)
    return taken


def submitted(taken: Step) -> list[tuple[str, str, int]]:
    return [(r.stage, r.units, r.tasks) for r in taken.submitted]


@pytest.fixture
def run(tiny: Tiny) -> Run:
    """Four shards, one a task."""
    return tiny(site={"shards_per_task": 1})


def ended(slurm: Slurm, run: Run, ending: str, code: str = "0:0") -> int:
    """Submit all, and let every task end in one way; return the array's number."""
    record = step(run).submitted[0]
    slurm.end_all(record.job, ending, code)
    return record.job


def attempts(run: Run) -> dict[int, int]:
    return {f.unit: f.attempts for f in failures.failures(open_run(run.layout.root), SOURCE)}


# ------------------------------------------------------------------------------------------------------- the steps


def test_the_first_step_submits_a_stage_and_a_job_that_looks_after_it(slurm: Slurm, run: Run) -> None:
    first = step(run, None)
    assert submitted(first) == [("source", "0-3", 4), ("advance", "", 1)]
    array, follower = (r.job for r in first.submitted)
    assert slurm.job(follower)["options"]["dependency"] == f"afterany:{array}"
    assert {c: len(slurm.calls(c)) for c in ("squeue", "sbatch", "sacct")} == {"squeue": 1, "sbatch": 2, "sacct": 0}


def test_thousands_of_shards_take_two_calls_of_sbatch(slurm: Slurm, tiny: Tiny) -> None:
    run = tiny(2000, site={"shards_per_task": 2})
    first = step(run)
    assert submitted(first) == [("source", "0-1999", 1000), ("advance", "", 1)]
    assert len(slurm.calls("sbatch")) == 2
    assert len(list(run.layout.jobs.iterdir())) == 4


def test_stages_follow_each_other(slurm: Slurm, run: Run) -> None:
    step(run, "unique")
    for element in slurm.able():
        do(slurm, run.layout.root, element)
    assert submitted(follow(slurm, run, "unique")) == [("unique", "0", 1), ("advance", "", 1)]
    for element in [e for e in slurm.able() if stage_of(slurm, e) == "unique"]:
        do(slurm, run.layout.root, element)
    last = follow(slurm, run, "unique")
    assert (last.ended, last.outcome.complete, slurm.able()) == (True, True, [])
    assert run.layout.folded(SOURCE).exists()


def test_until_is_handed_on(slurm: Slurm, run: Run) -> None:
    follower = step(run, "text").submitted[-1]
    assert "--until text" in slurm.job(follower.job)["script"]


def test_a_second_step_meanwhile_submits_nothing(slurm: Slurm, run: Run) -> None:
    step(run)
    second = step(run)
    assert (second.submitted, second.ended, len(slurm.jobs())) == ([], False, 2)


def test_a_second_step_adds_a_job_that_looks_where_there_is_none(slurm: Slurm, run: Run) -> None:
    array, follower = step(run).submitted
    slurm.end(Element(follower.job, 0), "NODE_FAIL")
    second = step(run)
    assert submitted(second) == [("advance", "", 1)]
    assert slurm.job(second.submitted[0].job)["options"]["dependency"] == f"afterany:{array.job}"


def test_a_run_that_is_to_go_further_does(slurm: Slurm, run: Run) -> None:
    """`run --until source`, and while that is under way, `run`."""
    step(run, "source")
    second = step(run, None)
    assert submitted(second) == [("advance", "", 1)]
    assert step(run, "source").submitted == step(run, None).submitted == []
    for element in [e for e in slurm.able() if stage_of(slurm, e) == "source"]:
        do(slurm, run.layout.root, element)
    short, far = [e for e in slurm.able() if stage_of(slurm, e) == "advance"]
    with inside(slurm, short):
        assert step(run, "source").submitted == []  # the other goes further, and takes the step
        with inside(slurm, far):
            assert submitted(step(run, None)) == [("unique", "0", 1), ("advance", "", 1)]


def test_one_that_goes_further_is_not_left_to_one_that_does_not(slurm: Slurm, run: Run) -> None:
    step(run, "source")
    step(run, None)
    for element in [e for e in slurm.able() if stage_of(slurm, e) == "source"]:
        do(slurm, run.layout.root, element)
    _, far = [e for e in slurm.able() if stage_of(slurm, e) == "advance"]
    with inside(slurm, far):
        assert submitted(step(run, None)) == [("unique", "0", 1), ("advance", "", 1)]


def test_of_two_at_once_the_younger_takes_the_step(slurm: Slurm, run: Run) -> None:
    array = step(run).submitted[0]
    extra = jobs.follow(run, [array.job], "source")
    slurm.end_all(array.job, "FAILED", "1:0")
    older, younger = [e for e in slurm.able() if stage_of(slurm, e) == "advance"]
    assert younger.job == extra.job
    with inside(slurm, older):
        assert step(run).submitted == []
        with inside(slurm, younger):
            assert submitted(step(run)) == [("source", "0-3", 4), ("advance", "", 1)]
        assert step(run).submitted == []


def test_a_job_of_another_run_is_no_job_of_this_one(slurm: Slurm, run: Run, tiny: Tiny) -> None:
    other = tiny(site={"shards_per_task": 1}, name="other")
    step(other)
    assert submitted(step(run)) == [("source", "0-3", 4), ("advance", "", 1)]


def test_a_finished_run_submits_nothing(slurm: Slurm, run: Run) -> None:
    step(run)
    for element in slurm.able():
        do(slurm, run.layout.root, element)
    assert follow(slurm, run).ended
    again = step(run)
    assert (again.ended, again.outcome.complete) == (True, True)


# ------------------------------------------------------------------------------------------- whose fault it was


def test_a_unit_that_was_begun_and_left_has_failed(slurm: Slurm, run: Run) -> None:
    array = step(run).submitted[0].job
    left = leave_behind(run, 2)
    for index in (0, 1, 3):
        do(slurm, run.layout.root, Element(array, index))
    slurm.end(Element(array, 2), "FAILED", "0:9")
    assert submitted(follow(slurm, run)) == [("source", "2", 1), ("advance", "", 1)]
    (failure,) = failures.failures(open_run(run.layout.root), SOURCE)
    assert (failure.unit, failure.attempts, failure.job) == (2, 1, f"{array}_2")
    assert "FAILED, signal 9, on n1" in failure.reason
    assert not left.exists()


@pytest.mark.parametrize("ending", ["PREEMPTED", "NODE_FAIL", "BOOT_FAIL"])
def test_who_was_preempted_or_lost_its_node_has_not(slurm: Slurm, run: Run, ending: str) -> None:
    left = leave_behind(run, 2)
    ended(slurm, run, ending)
    again = follow(slurm, run)
    assert submitted(again)[0] == ("source", "0-3", 4)
    assert "begin" not in slurm.job(again.submitted[0].job)["options"]
    assert (attempts(run), left.exists()) == ({}, False)


@pytest.mark.parametrize(
    ("ending", "code", "words"),
    [
        ("FAILED", "127:0", "exit code 127"),
        ("TIMEOUT", "0:0", "time limit"),
        ("OUT_OF_MEMORY", "0:125", "raise mem_gb"),
        ("COMPLETED", "0:0", "COMPLETED"),  # a setup line that says `exit 0`
    ],
)
def test_a_task_that_moved_nothing_has_failed_with_all_its_units(
    slurm: Slurm, run: Run, ending: str, code: str, words: str
) -> None:
    ended(slurm, run, ending, code)
    follow(slurm, run)
    assert attempts(run) == dict.fromkeys(range(4), 1)
    assert all(words in f.reason for f in failures.failures(open_run(run.layout.root), SOURCE))


def test_a_task_whose_other_units_are_done_has_only_failed_with_the_one_at_work(slurm: Slurm, tiny: Tiny) -> None:
    run = tiny(site={"shards_per_task": 4})
    array = step(run).submitted[0].job
    with inside(slurm, Element(array, 0)):
        job.work(run, SOURCE, [0], Log(run))
    leave_behind(run, 1)
    slurm.end(Element(array, 0), "TIMEOUT")
    follow(slurm, run)
    assert attempts(run) == {1: 1}


def test_a_failure_that_a_task_wrote_down_itself_is_counted_once(slurm: Slurm, run: Run) -> None:
    array = step(run).submitted[0].job
    with inside(slurm, Element(array, 0)):
        failures.note(run, SOURCE, 0, ValueError("bad luck"))
    slurm.end_all(array, "FAILED", "1:0")
    follow(slurm, run)
    assert attempts(run)[0] == 1
    failure = failures.read(run, SOURCE, 0)
    assert failure is not None
    assert failure.reason == "ValueError: bad luck"


@pytest.mark.parametrize("line", ["Detected 1 oom-kill event(s) in StepId=1.batch", "Exceeded job memory limit"])
@pytest.mark.parametrize("accounting", [True, False])
def test_memory_is_the_reason_where_the_log_alone_says_so(slurm: Slurm, run: Run, line: str, accounting: bool) -> None:
    slurm.change(accounting=accounting)
    array = step(run).submitted[0].job
    records.log(run, SOURCE, f"{array}_1").write_text(f"begin\nslurmstepd: error: {line}\n")
    slurm.end_all(array, "FAILED", "0:9")
    follow(slurm, run)
    reasons = {f.unit: f.reason for f in failures.failures(open_run(run.layout.root), SOURCE)}
    assert "raise mem_gb" in reasons[1]
    assert "raise mem_gb" not in reasons[2]


def fetching(slurm: Slurm, run: Run) -> tuple[Run, Element, Path]:
    """Return a stage with checkpoints as if it were the only one that is missing, its task, a unit's checkpoint."""
    record = jobs.submit(run, BY_NAME["fetch"], [0], 1, {})
    folder = files.make(run.layout.parts(BY_NAME["fetch"], 0, "0123456789abcdef"))
    return run, Element(record.job, 0), folder


@pytest.mark.parametrize(("later", "counted"), [(10, False), (-10, True)])
def test_the_time_limit_is_no_failure_where_something_was_kept(
    slurm: Slurm, run: Run, monkeypatch: pytest.MonkeyPatch, later: int, counted: bool
) -> None:
    """Fetch that comes further each time goes on; one whose checkpoint is from earlier days does not count as such."""
    _, element, folder = fetching(slurm, run)
    monkeypatch.setattr(Run, "ready", lambda *given: True)
    part = folder / "000000.json"
    part.write_bytes(b"{}")
    when = part.stat().st_mtime + later
    os.utime(part, (when, when))
    files.make(run.layout.attempt(BY_NAME["fetch"], 0, "othernode-1-00000000"))
    slurm.end(element, "TIMEOUT")
    advance.judge(open_run(run.layout.root))
    assert (failures.read(run, BY_NAME["fetch"], 0) is not None) == counted


def test_a_record_of_jobs_that_nobody_knows_any_more_breaks_nothing(slurm: Slurm, run: Run) -> None:
    step(run)
    slurm.forget()
    again = step(run)
    assert submitted(again) == [("source", "0-3", 4), ("advance", "", 1)]
    assert attempts(run) == {}, "accounting knows of no start, so nothing was tried"


def test_an_ending_is_looked_at_once(slurm: Slurm, run: Run) -> None:
    ended(slurm, run, "FAILED", "1:0")
    for _ in range(2):
        advance.judge(open_run(run.layout.root))
        assert attempts(run) == dict.fromkeys(range(4), 1)


def test_accounting_that_lags_is_waited_for(slurm: Slurm, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    array = ended(slurm, run, "PREEMPTED")
    late = [f"{array}_0|RUNNING|0:0|n1\n"]
    ask = scheduler.ask
    monkeypatch.setattr(scheduler, "ask", lambda *w, **o: late.pop() if w[0] == "sacct" and late else ask(*w, **o))
    follow(slurm, run)
    assert (sum(slurm.slept), attempts(run)) == (1, {})


# ------------------------------------------------------------------------------------------------ how it ends


def rounds(slurm: Slurm, run: Run, ending: str, code: str, most: int = 20) -> tuple[Step, list[str]]:
    """Let every task end in one way until nothing is submitted; return the last step, and the back-offs."""
    taken, waits = step(run), []
    for _ in range(most):
        if taken.ended:
            return taken, waits
        array = taken.submitted[0]
        waits.append(slurm.job(array.job)["options"].get("begin", "now"))
        slurm.end_all(array.job, ending, code)
        taken = follow(slurm, run)
    raise AssertionError("it does not end")


@pytest.mark.parametrize("accounting", [True, False])
@pytest.mark.parametrize("ending", ["FAILED", "COMPLETED", "TIMEOUT"])
def test_what_always_fails_is_set_aside(slurm: Slurm, run: Run, accounting: bool, ending: str) -> None:
    """A setup line that is wrong, for instance: no endless loop."""
    slurm.change(accounting=accounting)
    last, waits = rounds(slurm, run, ending, "127:0")
    assert waits == ["now", "now+60", "now+120"]
    assert sorted(last.outcome.aside) == [("source", u) for u in range(4)]
    with pytest.raises(WorkError, match="4 units failed and were set aside"):  # which is exit code 1
        cli._ended(run, last)


def test_without_sacct_it_ends_too(slurm: Slurm, run: Run) -> None:
    (slurm.bin / "sacct").unlink()
    last, _ = rounds(slurm, run, "FAILED", "1:0")
    assert len(last.outcome.aside) == 4


def test_the_back_off_grows_to_an_hour(slurm: Slurm, tiny: Tiny) -> None:
    options = {"kind": "slurm", "retries": 8, "site": {"backoff_s": 60, "shards_per_task": 4}}
    _, waits = rounds(slurm, tiny(executor=options), "FAILED", "1:0")
    assert waits == ["now", *(f"now+{s}" for s in (60, 120, 240, 480, 960, 1920, 3600, 3600))]


def test_units_that_failed_wait_and_the_others_do_not(slurm: Slurm, run: Run) -> None:
    array = step(run).submitted[0].job
    slurm.end(Element(array, 0), "FAILED", "1:0")
    slurm.end(Element(array, 1), "FAILED", "1:0")
    slurm.end(Element(array, 2), "PREEMPTED")
    slurm.end(Element(array, 3), "PREEMPTED")
    again = follow(slurm, run)
    assert submitted(again) == [("source", "2-3", 2), ("source", "0-1", 2), ("advance", "", 1)]
    assert slurm.job(again.submitted[1].job)["options"]["begin"] == "now+60"
    assert slurm.job(again.submitted[2].job)["after"] == [str(r.job) for r in again.submitted[:2]]


def test_what_rests_on_a_unit_that_was_set_aside_is_not_run(slurm: Slurm, tiny: Tiny) -> None:
    run = tiny(executor={"kind": "slurm", "retries": 0, "site": {"shards_per_task": 1}})
    array = step(run, None).submitted[0].job
    for index in (0, 1, 3):
        do(slurm, run.layout.root, Element(array, index))
    slurm.end(Element(array, 2), "FAILED", "1:0")
    last = follow(slurm, run, None)
    assert (last.ended, list(last.outcome.aside)) == (True, [("source", 2)])
    assert last.outcome.waiting[0] == "unique: 1 of 1 units"


def test_asking_again_gives_new_attempts(slurm: Slurm, run: Run) -> None:
    rounds(slurm, run, "FAILED", "1:0")
    advance.resume(open_run(run.layout.root))
    again = step(run)
    assert submitted(again)[0] == ("source", "0-3", 4)
    assert "begin" not in slurm.job(again.submitted[0].job)["options"]


def test_finish_waits_for_the_end_and_tells_it(slurm: Slurm, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    step(run)

    def meanwhile(seconds: float) -> None:
        for element in slurm.able():
            if stage_of(slurm, element) == "advance":
                follow(slurm, run)
            else:
                do(slurm, run.layout.root, element)

    monkeypatch.setattr(clock, "sleep", meanwhile)
    last = advance.finish(open_run(run.layout.root), "source")
    assert (last.ended, last.outcome.complete) == (True, True)


# ---------------------------------------------------------------------------------------------------- calling back


def test_cancel_calls_the_job_that_looks_back_first(slurm: Slurm, run: Run) -> None:
    array, follower = (r.job for r in step(run).submitted)
    assert advance.cancel(run) == [follower, array]
    assert slurm.calls("scancel") == [[str(follower), str(array)]]
    taken = step(run)
    assert (taken.submitted, "danqing cancel" in taken.cancelled) == ([], True)


def test_a_run_that_was_called_back_can_go_on(slurm: Slurm, run: Run) -> None:
    step(run)
    leave_behind(run, 1)
    advance.cancel(run)
    advance.resume(open_run(run.layout.root))
    assert submitted(step(run)) == [("source", "0-3", 4), ("advance", "", 1)]
    assert attempts(run) == {}


def test_an_array_that_was_cancelled_stops_the_run(slurm: Slurm, run: Run) -> None:
    left = leave_behind(run, 1)
    array = ended(slurm, run, "CANCELLED by 1000")
    taken = follow(slurm, run)
    assert (taken.submitted, taken.cancelled) == ([], f"job {array} (source) was cancelled")
    assert (attempts(run), left.exists()) == ({}, False)


def test_one_task_that_was_cancelled_does_not(slurm: Slurm, run: Run) -> None:
    array = step(run).submitted[0].job
    slurm.end(Element(array, 0), "CANCELLED by 1000")
    for index in (1, 2, 3):
        do(slurm, run.layout.root, Element(array, index))
    assert submitted(follow(slurm, run)) == [("source", "0", 1), ("advance", "", 1)]


# ------------------------------------------------------------------------------------------ limits, and no Slurm


def test_a_small_array_size_makes_several_arrays(slurm: Slurm, tiny: Tiny) -> None:
    slurm.change(MaxArraySize=11)
    run = tiny(60, site={"shards_per_task": 1})
    taken = step(run)
    assert [r.tasks for r in taken.submitted] == [11, 11, 11, 11, 11, 5, 1]
    assert slurm.job(taken.submitted[-1].job)["after"] == [str(r.job) for r in taken.submitted[:-1]]


def test_what_does_not_fit_into_the_queue_comes_later(slurm: Slurm, run: Run) -> None:
    slurm.change(submit=3)
    first = step(run)
    assert submitted(first) == [("source", "0-1", 2), ("advance", "", 1)]
    for element in slurm.able():
        do(slurm, run.layout.root, element)
    slurm.change(submit=4)  # the job that looks has a place itself
    assert submitted(follow(slurm, run)) == [("source", "2-3", 2), ("advance", "", 1)]


def test_a_queue_that_is_full_for_now_is_looked_at_again(slurm: Slurm, run: Run) -> None:
    slurm.change(submit=1)
    taken = step(run)
    assert submitted(taken) == [("advance", "", 1)]
    options = slurm.job(taken.submitted[0].job)["options"]
    assert (options["begin"], "dependency" in options) == ("now+300", False)


def test_a_limit_that_nobody_told_makes_smaller_arrays(slurm: Slurm, run: Run) -> None:
    """A qos lets so many jobs be queued; sbatch alone knows."""
    slurm.refuse("sbatch", "QOSMaxSubmitJobPerUserLimit")
    assert submitted(step(run)) == [("source", "0-1", 2), ("advance", "", 1)]


def test_where_jobs_may_not_submit_all_stages_are_submitted_at_once(slurm: Slurm, tiny: Tiny) -> None:
    run = tiny(site={"advance": False, "shards_per_task": 2}, align={"l2": [1.06, 1.24]})
    taken = step(run, None)
    assert [r.stage for r in taken.submitted] == [*(s.name for s in run.stages), "export"]  # and its closing unit
    for before, after in zip(taken.submitted, taken.submitted[1:], strict=False):
        assert slurm.job(after.job)["after"] == [str(before.job)]
    assert step(run, None).submitted == []


def test_there_what_can_not_be_done_is_not_submitted_for_ever(slurm: Slurm, tiny: Tiny) -> None:
    run = tiny(executor={"kind": "slurm", "retries": 1, "site": {"advance": False, "shards_per_task": 1}})
    for _ in range(10):
        taken = step(run, None)
        if taken.ended:
            break
        while able := slurm.able():
            for element in able:
                if stage_of(slurm, element) == "source" and 2 not in units_of(slurm, run, element):
                    do(slurm, run.layout.root, element)
                else:
                    slurm.end(element, "FAILED", "1:0")
    assert taken.ended
    assert list(taken.outcome.aside) == [("source", 2)]


def test_inside_a_job_a_controller_that_is_away_is_waited_for(
    slurm: Slurm, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm.refuse("squeue", "Unable to contact slurm controller (connect failure)", 6)
    assert len(advance.patient(run, "source").submitted) == 2
    assert 60 in slurm.slept


def test_a_job_that_has_waited_long_enough_leaves_the_step_to_another(slurm: Slurm, run: Run) -> None:
    array, follower = (r.job for r in step(run).submitted)
    slurm.end_all(array)
    slurm.refuse("squeue", "Unable to contact slurm controller (connect failure)", 999)
    with inside(slurm, Element(follower, 0)), pytest.raises(scheduler.BusyError):
        advance.patient(open_run(run.layout.root), "source")
    assert 900 <= sum(slurm.slept) < 1800
    assert slurm.job(max(slurm.jobs()))["options"]["begin"] == "now+1800"
    assert records.records(run)[-1].stage == "advance"


@pytest.mark.parametrize("signum", [signal.SIGUSR2, signal.SIGTERM])
def test_a_job_that_is_asked_to_end_leaves_the_step_to_another(
    slurm: Slurm, run: Run, signum: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its time limit, or by preemption, which does not bring it back where it cancels."""
    array, follower = (r.job for r in step(run).submitted)
    slurm.end_all(array)
    monkeypatch.setattr(scheduler, "queue", lambda: os.kill(os.getpid(), signum))
    with inside(slurm, Element(follower, 0)), pytest.raises(WorkError, match="asked to end"):
        advance.patient(open_run(run.layout.root), "source")
    assert "begin" not in slurm.job(max(slurm.jobs()))["options"]
    assert slurm.slept == []


def test_a_refusal_for_good_is_told_and_not_tried_for_ever(slurm: Slurm, tiny: Tiny) -> None:
    run = tiny(site={"partition": "nowhere"})
    with pytest.raises(WorkError, match="Invalid partition"):
        advance.patient(run, "source")
    assert slurm.calls("scontrol") == [["show", "config"]] * len(slurm.calls("sbatch"))
    assert sum(slurm.slept) < 1800


# ------------------------------------------------------------------------------------------- whatever happens

ENDINGS = ("done", "done", "raised", "killed", "preempted", "preempted for good", "node", "timeout", "cancelled", "own")


class Story:
    """A run whose tasks end as they are told to, until nothing can start."""

    def __init__(self, slurm: Slurm, run: Run, endings: list[str], bad: set[int]) -> None:
        self.slurm, self.run, self.endings, self.bad = slurm, run, list(endings), bad
        self.seen = 0

    def tell(self) -> Step:
        """Go on to the end; return the last step."""
        last = step(self.run)
        for _ in range(200):
            self.look()
            able = self.slurm.able()
            if not able:
                return last
            if stage_of(self.slurm, able[0]) == "advance":
                last = follow(self.slurm, self.run)
            else:
                self.work(able[0])
            if last.cancelled:  # all of an array was: somebody asks for it again
                advance.resume(open_run(self.run.layout.root))
                last = step(self.run)
        raise AssertionError("it does not end")

    def look(self) -> None:
        """Nothing that is finished is submitted again."""
        opened = open_run(self.run.layout.root)
        for record in records.records(opened)[self.seen :]:
            self.seen += 1
            assert not [u for u in record.all() if opened.valid(SOURCE, u)], record

    def work(self, element: Element) -> None:
        ending = self.endings.pop() if self.endings else "done"
        units = units_of(self.slurm, self.run, element)
        with inside(self.slurm, element):
            run = open_run(self.run.layout.root)
            missing = [u for u in units if run.valid(SOURCE, u) is None]
            stop = missing[len(missing) // 2 :][:1] if ending not in ("done", "own") else []
            for unit in missing:
                if unit in stop:
                    break
                if unit in self.bad:
                    failures.note(run, SOURCE, unit, "always")
                else:
                    job.work(run, SOURCE, [unit], Log(run))
            for unit in stop:
                failures.note(run, SOURCE, unit, "once") if ending == "raised" else leave_behind(run, unit)
        self.end(element, ending, bool(self.bad & set(missing)))

    def end(self, element: Element, ending: str, failed: bool) -> None:
        state, again = {
            "done": ("FAILED" if failed else "COMPLETED", False),
            "raised": ("FAILED", False),
            "killed": ("FAILED", False),
            "preempted": ("PREEMPTED", True),
            "preempted for good": ("PREEMPTED", False),
            "node": ("NODE_FAIL", True),
            "timeout": ("TIMEOUT", False),
            "cancelled": ("CANCELLED by 0", False),
            "own": ("REQUEUED", True),
        }[ending]
        self.slurm.end(element, state, "1:0" if state == "FAILED" else "0:0", again)


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(endings=st.lists(st.sampled_from(ENDINGS), max_size=6), bad=st.sets(st.integers(0, 4), max_size=1))
def test_whatever_happens_it_ends_and_only_what_always_fails_is_missing(
    slurm: Slurm, tmp_path_factory: pytest.TempPathFactory, endings: list[str], bad: set[int]
) -> None:
    slurm.forget()
    executor = {"kind": "slurm", "retries": 7, "site": {"shards_per_task": 2}}
    run = make(tmp_path_factory.mktemp("story"), 5, executor=executor)
    last = Story(slurm, run, endings, bad).tell()
    assert (last.ended, last.outcome.complete) == (True, not bad)
    assert {unit for _, unit in last.outcome.aside} == bad
    assert set(open_run(run.layout.root).marks(SOURCE)) == set(range(5)) - bad
    assert list(run.layout.work(SOURCE).glob("*.*")) == []


# ------------------------------------------------------------------------------------- what would leave a run alone


def test_a_refusal_by_policy_is_told_and_no_full_queue(slurm: Slurm, run: Run) -> None:
    """The words "job submit limit" stand in the refusal of a time limit too."""
    said = "QOSMaxWallDurationPerJobLimit: Job violates accounting/QOS policy (job submit limit, time limits)"
    slurm.refuse("sbatch", said)
    with pytest.raises(WorkError, match="QOSMaxWallDuration"):
        step(run)
    assert len(slurm.calls("sbatch")) == 1


def test_an_array_whose_follower_is_refused_is_called_back(slurm: Slurm, run: Run) -> None:
    refused = iter((None, "Invalid account or account/partition combination specified"))
    submit = jobs.Submitter.submit_script

    def second(self: jobs.Submitter, command: str, elements: int) -> int:
        if text := next(refused):
            slurm.refuse("sbatch", text)
        return submit(self, command, elements)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs.Submitter, "submit_script", second)
        with pytest.raises(WorkError, match="Invalid account"):
            step(run)
    assert slurm.able() == []
    assert len(slurm.calls("scancel")) == 1
    assert submitted(step(run)) == [("source", "0-3", 4), ("advance", "", 1)]
    assert attempts(run) == {}


def test_a_step_that_runs_or_ends_is_not_relied_upon(slurm: Slurm, run: Run) -> None:
    """It may have looked already: what was asked for since would be left alone."""
    array, follower = (r.job for r in step(run).submitted)
    slurm.end_all(array)
    slurm.start(Element(follower, 0))
    again = step(run)
    assert [r.stage for r in again.submitted] == ["advance"]
    assert slurm.job(again.submitted[0].job)["options"]["dependency"] == f"afterany:{follower}"


def test_jobs_of_others_count_against_the_limit_too(slurm: Slurm, tiny: Tiny) -> None:
    run, other = (tiny(site={"shards_per_task": 1}, name=name) for name in ("run", "other"))
    step(other)
    slurm.change(submit=8)
    assert submitted(step(run)) == [("source", "0-1", 2), ("advance", "", 1)]


def test_a_run_is_the_same_by_whatever_link_it_is_reached(slurm: Slurm, run: Run, tmp_path: Path) -> None:
    step(run)
    link = tmp_path / "link"
    link.symlink_to(run.layout.root)
    again = advance.hold(open_run(link), "source")
    assert again.submitted == []
    assert len(again.moving) == 2


def test_what_would_work_beside_jobs_waits_for_them(slurm: Slurm, run: Run) -> None:
    advance.idle(run)
    array = step(run).submitted[0].job
    with pytest.raises(WorkError, match=f"wait or run .*{array}.*danqing cancel"):
        advance.idle(run)


def test_a_failure_that_the_pool_told_is_not_counted_again_for_what_it_left(slurm: Slurm, run: Run) -> None:
    record = step(run).submitted[0]
    with inside(slurm, Element(record.job, 0)):
        failures.note(run, SOURCE, 0, "the worker was killed by SIGKILL")
    leave_behind(run, 0)
    slurm.end_all(record.job, "FAILED", "1:0")
    advance.judge(open_run(run.layout.root))
    found = failures.read(run, SOURCE, 0)
    assert found is not None
    assert (found.attempts, found.reason) == (1, "the worker was killed by SIGKILL")
