"""`danqing logs`: the right failure, the right log, its end and no more of it, and nothing that a terminal obeys."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.report.begun import NOW, SOURCE, begun, done, failed, submitted, write
from toolkit.cli import app
from toolkit.errors import UserError
from toolkit.report.logs import LINE_CHARS, TAIL_BYTES, newest, of_advance, of_stage, of_unit, overview, tail
from toolkit.run.run import Run, open_run

EARLIER = "2026-01-01T00:00:00+00:00"


def again(run: Run) -> Run:
    return open_run(run.layout.root)


def test_the_overview_is_a_line_a_stage(tmp_path: Path) -> None:
    run = begun(tmp_path)
    assert list(overview(run)) == [f"{run.layout.root}: nothing failed, and no job wrote a log"]
    failed(run, 3, attempts=1)
    failed(run, 4, attempts=3)
    failed(run, 5, attempts=3)
    done(run, 5)  # since
    log = run.layout.logs(SOURCE) / "7_1.log"
    write(log, b"hello\n")
    write(run.layout.jobs / "danqing-0123abcd-advance-8.log", b"hello\n")
    assert list(overview(again(run))) == [
        f"source: 1 failed, to be tried again, 1 set aside; newest log {log}",
        f"advance: newest log {run.layout.jobs / 'danqing-0123abcd-advance-8.log'}",
    ]


def test_a_stage_shows_the_log_of_the_newest_failure(tmp_path: Path) -> None:
    run = begun(tmp_path)
    logs = run.layout.logs(SOURCE)
    for number, (job, when) in enumerate([("7_0", EARLIER), ("7_1", NOW), ("7_2", EARLIER)]):
        failed(run, number, job=job, time=when, reason=f"reason {number}")
        write(logs / f"{job}.log", f"one\ntwo\nthis is {job}\n".encode())
        os.utime(logs / f"{job}.log", (number, number))  # 7_2 was written to last, and tells of an earlier failure
    said = list(of_stage(run, SOURCE, 2))
    assert said[0] == "source: 3 failed, to be tried again"
    assert said[1] == f"000001: failed, will be tried again (1 attempt, {NOW}, job 7_1): reason 1"
    assert said[4:7] == [f"log {logs / name}.log" for name in ("7_2", "7_1", "7_0")]
    assert said[7:] == [f"--- the end of {logs / '7_1.log'}", "two", "this is 7_1"]


def test_a_failure_without_a_job_shows_its_trace(tmp_path: Path) -> None:
    run = begun(tmp_path, kind="local")
    failed(run, 3, trace="Traceback\n  File\nValueError: no\n")
    assert list(of_stage(run, SOURCE, 2))[-3:] == ["--- the trace", "  File", "ValueError: no"]


def test_a_unit_that_is_done_names_who_did_it(tmp_path: Path) -> None:
    run = begun(tmp_path)
    done(run, 5, job="7_1", seconds=61.5)
    write(run.layout.logs(SOURCE) / "7_1.log", b"all well\n")
    said = list(of_unit(again(run), SOURCE, 5, 3))
    assert said[0].startswith("source 000005: done in 61.5 s, started 2026-05-28T20:2")
    assert said[0].endswith(", on n1, by job 7_1, attempt 000005.n1-7-0")
    assert said[1:] == [f"--- the end of {run.layout.logs(SOURCE) / '7_1.log'}", "all well"]


def test_a_unit_that_failed_shows_reason_trace_and_log(tmp_path: Path) -> None:
    run = begun(tmp_path)
    failed(run, 5, attempts=3, reason="no room", trace="Traceback\nOSError: no room", job="9")
    write(run.layout.logs(SOURCE) / "9.log", b"the log\n")
    assert list(of_unit(run, SOURCE, 5, 3)) == [
        f"source 000005: set aside (3 attempts, {NOW}, job 9): no room",
        "--- the trace",
        "Traceback",
        "OSError: no room",
        f"--- the end of {run.layout.logs(SOURCE) / '9.log'}",
        "the log",
    ]


def test_a_unit_that_nobody_finished_shows_whose_it_is(tmp_path: Path) -> None:
    run = begun(tmp_path)
    assert list(of_unit(run, SOURCE, 5, 3)) == ["source 000005: not done"]
    submitted(run, 7, "0-11", 4)
    submitted(run, 8, "0-4", 1)
    write(run.layout.logs(SOURCE) / "7_1.log", b"at work\n")
    said = list(of_unit(run, SOURCE, 5, 3))
    assert said[0] == f"source 000005: not done, given to job 7_1 at {NOW}"
    assert said[-1] == "at work"


def test_a_unit_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="units 0 to 11, and no 12"):
        list(of_unit(begun(tmp_path), SOURCE, 12, 3))


def test_a_job_of_a_record_is_no_path(tmp_path: Path) -> None:
    run = begun(tmp_path)
    failed(run, 5, job="../../../../etc/passwd")
    assert not [line for line in of_unit(run, SOURCE, 5, 3) if line.startswith("---")]


def test_the_end_of_a_log_is_safe_and_short(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"\x1b[2J\x1b]0;mine\x07\xff\n" + "\u202egnp.exe\n".encode() + b"a" * 10_000 + b"\n")
    cleared, turned, long = tail(path, 10)
    assert cleared == "\\x1b[2J\\x1b]0;mine\\x07\N{REPLACEMENT CHARACTER}"
    assert turned == r"\u202egnp.exe"
    assert len(long) == LINE_CHARS


def test_only_the_end_of_a_large_log_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a sparse file of a terabyte
        file.seek(0, os.SEEK_END)
        file.write(b"\nlast but one\nlast\n")
    assert tail(path, 2) == ["last but one", "last"]
    assert sum(map(len, tail(path, 10**6))) < 5 * TAIL_BYTES


def test_of_a_progress_bar_the_last_state_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"10 %\r20 %\r30 %\nnext\r\n")
    assert tail(path, 5) == ["30 %", "next"]


def test_no_lines_of_no_log(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    assert tail(path, 5) == []
    path.write_bytes(b"one\n")
    assert tail(path, 0) == []
    assert newest(tmp_path / "none", 5) == []


def test_logs_of_advance(tmp_path: Path) -> None:
    run = begun(tmp_path)
    assert list(of_advance(run, 3)) == ["advance: no job wrote a log"]
    write(run.layout.jobs / "danqing-0123abcd-advance-8.log", b"sbatch refused\n")
    assert list(of_advance(run, 3))[-1] == "sbatch refused"


@pytest.mark.parametrize("words", [[], ["source"], ["source", "3"], ["advance"]])
def test_the_command_takes_a_stage_and_a_unit(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = begun(tmp_path)
    failed(run, 3, reason="a stone in the way")
    app(["logs", str(run.layout.root), *words, "--lines", "1"], standalone_mode=False)
    said = capsys.readouterr().out
    assert ("a stone in the way" in said) == ("source" in words) and said
