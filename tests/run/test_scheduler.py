"""What Slurm says, in the forms in which 22.05 says it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fake_slurm import Element, Slurm
from toolkit.errors import UserError, WorkError
from toolkit.run import scheduler
from toolkit.run.scheduler import Ended, Limits


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("7", (7,)),
        ("0-3", (0, 1, 2, 3)),
        ("[0-3]", (0, 1, 2, 3)),
        ("0,2,4,6,8,10%3", (0, 2, 4, 6, 8, 10)),
        ("[0-1,3-4,7-8,10]", (0, 1, 3, 4, 7, 8, 10)),
        ("0-1598:2", tuple(range(0, 1599, 2))),
        ("6-9%10", (6, 7, 8, 9)),
        ("N/A", (0,)),
        ("", (0,)),
    ],
)
def test_indices_in_all_forms(text: str, numbers: tuple[int, ...]) -> None:
    assert scheduler.indices(text) == numbers


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        *(("2-12:00:00", 3600), ("4:00:00", 240), ("30:00", 30), ("1-00:00:00", 1440), ("infinite", None)),
        *(("UNLIMITED", None), ("n/a", None), ("", None), ("90", 90)),
    ],
)
def test_time_limits_in_all_forms(text: str, minutes: int | None) -> None:
    assert scheduler._minutes(text) == minutes


LIVE = """\
115|0-3|danqing-x-source|PENDING|Dependency
113|0,2,4,6,8,10%3|danqing-x-text|PENDING|JobHeldUser
8|[0-7]|danqing-x-text|PENDING|(Resources,Priority)
116|N/A|danqing-x-advance|PENDING|BeginTime
9|4|danqing-x-text|RUNNING|None
9|5|danqing-x-text|COMPLETING|a|b
"""


def test_what_moves_is_read_line_by_line() -> None:
    found = {(m.job, m.state, m.tasks, m.reason) for m in scheduler._live(LIVE)}
    assert found == {
        (115, "PENDING", (0, 1, 2, 3), "Dependency"),
        (113, "PENDING", (0, 2, 4, 6, 8, 10), "JobHeldUser"),
        (8, "PENDING", tuple(range(8)), "(Resources,Priority)"),
        (116, "PENDING", (0,), "BeginTime"),
        (9, "RUNNING", (4,), "None"),
        (9, "COMPLETING", (5,), "a|b"),
    }


def test_one_call_for_all_names_and_times_in_one_form(slurm: Slurm) -> None:
    assert scheduler.live(["a", "b"]) == []
    assert slurm.calls("squeue") == [["--noheader", f"--user={os.getuid()}", "--format=%F|%K|%j|%T|%r"]]
    assert slurm.seen("squeue")["SLURM_BITSTR_LEN"] == "0"  # else irregular arrays are cut short with "..."


HISTORY = """\
8_0|PREEMPTED|0:0|n1
8_0|COMPLETED|0:0|n2
8_1|REQUEUED|0:0|n1
8_1|NODE_FAIL|0:0|n1
8_1|FAILED|0:9|n2
8_2|CANCELLED by 0|0:0|n1
8_[3-5]|CANCELLED by 1000|0:0|None assigned
9|TIMEOUT|0:0|n1
"""


def test_how_jobs_ended_with_their_earlier_starts(slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "ask", lambda *words, **options: HISTORY)
    found = scheduler.history([8, 9])
    cancelled = Ended("CANCELLED", "0:0", "None assigned", ())
    assert found == {
        (8, 0): Ended("COMPLETED", "0:0", "n2", ("PREEMPTED",)),
        (8, 1): Ended("FAILED", "0:9", "n2", ("REQUEUED", "NODE_FAIL")),
        (8, 2): Ended("CANCELLED", "0:0", "n1", ()),
        **dict.fromkeys([(8, 3), (8, 4), (8, 5)], cancelled),
        (9, 0): Ended("TIMEOUT", "0:0", "n1", ()),
    }


def test_without_accounting_nobody_knows_how_jobs_ended(slurm: Slurm) -> None:
    slurm.change(accounting=False)
    assert scheduler.history([1]) is None
    (slurm.bin / "sacct").unlink()
    assert scheduler.history([1]) is None
    assert scheduler.history([]) == {}


@pytest.mark.parametrize(
    ("state", "code", "words"),
    [
        ("FAILED", "1:0", ["its process ended", "exit code 1", "n7"]),
        ("FAILED", "0:9", ["signal 9"]),
        ("OUT_OF_MEMORY", "0:125", ["more memory", "mem_gb"]),
        ("TIMEOUT", "0:0", ["time limit", "minutes"]),
        ("NODE_FAIL", "0:0", ["node failed"]),
        ("PREEMPTED", "0:0", ["preempted"]),
    ],
)
def test_endings_are_told_apart_in_words(state: str, code: str, words: list[str]) -> None:
    told = Ended(state, code, "n7", ()).told()
    for word in words:
        assert word in told


@pytest.mark.parametrize(
    ("line", "memory"),
    [
        ("slurmstepd: error: Detected 1 oom-kill event(s) in StepId=1.batch. Some of your processes", True),
        ("slurmstepd-n1: error: StepId=1.batch exceeded memory limit (232382464 > 104857600), being killed", True),
        ("slurmstepd-n1: error: Exceeded job memory limit", True),
        ("slurmstepd: error: *** JOB 9 ON n1 CANCELLED AT 2026-01-01 DUE TO TIME LIMIT ***", False),
    ],
)
def test_memory_is_told_by_the_end_of_the_log(tmp_path: Path, line: str, memory: bool) -> None:
    log = tmp_path / "1.log"
    log.write_bytes(b"\xff" * 100_000 + line.encode() + b"\n")
    assert scheduler.out_of_memory(log) == memory
    log.write_bytes(line.encode() + b"\n" * 100_000)
    assert not scheduler.out_of_memory(log)
    assert not scheduler.out_of_memory(tmp_path / "none.log")


def test_the_limits_of_a_cluster(slurm: Slurm) -> None:
    slurm.change(submit=500, MaxArraySize=11)
    assert scheduler.limits() == Limits(11, 10000, 500, {"main": 240, "long": None}, "main")


def test_limits_that_nobody_says_are_unknown(slurm: Slurm) -> None:
    assert scheduler.limits().submit is None
    slurm.change(accounting=False)
    assert scheduler.limits().submit is None
    (slurm.bin / "sacctmgr").unlink()
    assert scheduler.limits().submit is None


def test_a_busy_controller_is_asked_again(slurm: Slurm) -> None:
    slurm.refuse("squeue", "slurm_load_jobs error: Socket timed out on send/recv operation", 2)
    assert scheduler.live(["a"]) == []
    assert (len(slurm.calls("squeue")), slurm.slept) == (3, [2, 8])


def test_one_that_stays_busy_is_told_from_one_that_refuses(slurm: Slurm) -> None:
    slurm.refuse("squeue", "Unable to contact slurm controller (connect failure)", 9)
    with pytest.raises(scheduler.BusyError, match="Unable to contact"):
        scheduler.live(["a"])
    slurm.refuse("scancel", "Access/permission denied")
    with pytest.raises(WorkError, match="Access/permission denied") as error:
        scheduler.cancel([1])
    assert not isinstance(error.value, scheduler.BusyError)
    assert len(slurm.calls("scancel")) == 1


def test_a_machine_without_slurm_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no Slurm here"):
        scheduler.live(["a"])


@pytest.mark.parametrize(
    ("env", "name", "number"),
    [
        ({}, None, None),
        ({"SLURM_JOB_ID": "12"}, "12", 12),
        ({"SLURM_JOB_ID": "15", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}, "12_3", 12),
    ],
)
def test_where_this_process_runs(
    slurm: Slurm, monkeypatch: pytest.MonkeyPatch, env: dict[str, str], name: str | None, number: int | None
) -> None:
    for variable, value in env.items():
        monkeypatch.setenv(variable, value)
    assert (scheduler.element(), scheduler.own()) == (name, number)


def test_requeue_names_one_element_and_says_where_it_can_not(slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm.refuse("scontrol", "Access/permission denied")
    assert not scheduler.requeue("12_3")
    assert slurm.calls("scontrol") == [["requeue", "12_3"]]
    (slurm.bin / "scontrol").unlink()
    monkeypatch.setenv("PATH", str(slurm.bin))
    assert not scheduler.requeue("12_3")


def test_no_jobs_are_cancelled_by_no_call(slurm: Slurm) -> None:
    scheduler.cancel([])
    assert slurm.calls("scancel") == []
    assert Element(1, 0) not in slurm.able()
