"""A child process that answers, dies, spins or eats memory: what its parent gets, and what it leaves behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.crawl import alive
from toolkit import guard as guard_module
from toolkit.errors import WorkError
from toolkit.guard import Fault, Guard

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 240  # for what must happen, however loaded the machine is


@pytest.fixture(autouse=True)
def deeds(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def words(answers):
    return [a.word if isinstance(a, Fault) else a for a in answers]


def ask(items, work="deeds:deed", memory_mb=256, timeout_s=20.0, **option):
    with Guard(work, option, memory_mb=memory_mb, timeout_s=timeout_s) as guard:
        return words(guard.map(items))


def gone(pid: int) -> bool:
    end = time.monotonic() + PATIENCE_S
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.01)
    return not alive(pid)


def test_each_item_has_its_answer_in_order_and_prints_do_not_reach_them():
    items = [b"echo:%d" % i for i in range(150)] + [b"echo:" + bytes(3_000_000)] * 4 + [b""]
    assert ask(items) == [item.partition(b":")[2][::-1] for item in items]


def test_faults_of_items_and_faults_given_pass_through():
    assert ask([Fault("missing"), b"fault:corrupt", b"echo:ab", Fault("digest")]) == [
        "missing",
        "corrupt",
        b"ba",
        "digest",
    ]


def test_what_takes_the_child_down_costs_one_item():
    items = [b"echo:1", b"kill:", b"echo:2", b"hog:900", b"echo:3"]
    assert ask(items) == [b"1", "crash", b"2", "memory", b"3"]


def test_a_crash_in_c_code_is_a_crash():
    assert ask([b"x"], work="deeds:crash_in_c") == ["crash"]


def test_processor_time_is_limited_for_each_item_alone():
    assert ask([b"echo:1", b"spin:", b"echo:2"], timeout_s=0.2) == [b"1", "time", b"2"]


def test_a_child_that_sleeps_is_given_up(monkeypatch):
    monkeypatch.setattr(guard_module, "PATIENCE", 2)
    assert ask([b"x"], work="deeds:sleep", timeout_s=0.1) == ["time"]


def test_an_innocent_item_is_tried_again(tmp_path):
    assert ask([b"echo:1", b"once:", b"echo:2"], marker=str(tmp_path / "died")) == [b"1", b"alive", b"2"]


def test_a_child_killed_between_two_frames_costs_nothing():
    with Guard("deeds:pid", {}, memory_mb=256, timeout_s=20) as guard:
        (first,) = guard.map([b""])
        os.kill(int(first), signal.SIGKILL)
        (second,) = guard.map([b""])
    assert int(first) != int(second)


@pytest.mark.parametrize("cut", [1, 2])
def test_answers_do_not_depend_on_how_items_are_cut(monkeypatch, cut):
    items = [b"echo:1", b"hog:900", b"echo:2", b"hog:10", b"kill:"]
    monkeypatch.setattr(guard_module, "FRAME_ITEMS", cut)
    assert ask(items) == [b"1", "memory", b"2", b"\1", "crash"]


def test_leaving_the_guard_ends_the_child():
    with Guard("deeds:pid", {}, memory_mb=256, timeout_s=20) as guard:
        (pid,) = guard.map([b""])
        assert alive(int(pid))
    assert gone(int(pid))


@pytest.mark.skipif(sys.platform != "linux", reason="the death signal is Linux's")
def test_the_child_dies_with_its_parent_in_the_middle_of_an_item():
    script = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from toolkit.guard import Guard\n"
        "guard = Guard('deeds:sleep', {}, memory_mb=256, timeout_s=60)\n"
        "child = guard._start(); print(child.pid, flush=True)\n"
        "list(guard.map([b'x']))\n"
    )
    command = [sys.executable, "-c", script, str(ROOT), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    assert gone(pid)


def test_signals_that_ask_the_task_to_stop_leave_the_child_working():
    with Guard("deeds:pid", {}, memory_mb=256, timeout_s=20) as guard:
        (pid,) = guard.map([b""])
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(int(pid), name)
        assert list(guard.map([b""])) == [pid]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_it_works_inside_daemonic_workers(method):
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    path = [str(Path(__file__).parent), *sys.path]
    worker = context.Process(target=_report, args=(answers, path), daemon=True)
    worker.start()
    assert answers.get(timeout=PATIENCE_S) == [b"ba", "crash", b"c"]
    worker.join()


def _report(answers, path):
    sys.path[:] = path
    answers.put(ask([b"echo:ab", b"kill:", b"echo:c"]))


def test_work_that_can_not_be_imported_ends_the_task_with_a_reason(capfd):
    with pytest.raises(WorkError, match="did not start"):
        ask([b"x"], work="no_such_module:work")
    assert "no_such_module" in capfd.readouterr().err
