"""The funnel on a terminal: a short table whose columns stand under their heads."""

from __future__ import annotations

from typing import Any

from toolkit.recipe import FETCH_REASONS
from toolkit.report import display
from toolkit.report.display import funnel_lines

PAPER = {"paper_left": 475_104_485, "paper_dropped": 230_965_451}


def row(step: str, left: int | None, dropped: int | None, state: str = "run", **paper: int) -> dict[str, Any]:
    counts = {"step": step, "left": left, "dropped": dropped, "state": state}
    return counts | {"paper_left": None, "paper_dropped": None} | paper


def fetch(drops: dict[str, int], left: int) -> list[dict[str, Any]]:
    rows = []
    for reason in FETCH_REASONS:
        left -= drops.get(reason, 0)
        rows.append(row(f"fetch.{reason}", left, drops.get(reason, 0)))
    return [*rows[:-1], rows[-1] | PAPER]


def table(rows: list[dict[str, Any]]) -> dict[str, str]:
    _, *lines = funnel_lines(rows)
    return {line[:21].strip(): " ".join(line[21:].split()) for line in lines}


def test_reasons_of_fetch_that_dropped_nothing_are_summed_up() -> None:
    rows = [row("raw", 1000, None), *fetch({"http_4xx": 100, "host_down": 20}, 1000), row("image.decode", 880, 0)]
    assert table(rows) == {
        "raw": "1,000",
        "fetch.http_4xx": "900 100 10.0",
        "fetch.host_down": "880 20 2.2",
        "fetch (all reasons)": "880 120 12.0 475,104,485 32.7",
        "image.decode": "880 0 0.0",
    }


def test_a_fetch_that_was_not_reached_is_one_row() -> None:
    rows = [row(f"fetch.{reason}", None, None) for reason in FETCH_REASONS]
    rows[-1] |= PAPER
    assert table(rows) == {"fetch (all reasons)": "not reached 475,104,485 32.7"}


def test_rewrites_and_steps_that_were_not_run_say_so() -> None:
    rows = [
        row("text.simplified", 900, 25, "rewrite", paper_left=467_455_303, paper_dropped=0),
        row("text.unknown", None, None, "not run"),
        row("text.noun", 0, 0),
    ]
    assert table(rows) == {
        "text.simplified": "900 (25) rewr. 467,455,303 0.0",
        "text.unknown": "not run",
        "text.noun": "0 0",
    }


def test_columns_end_under_their_heads_for_the_largest_counts() -> None:
    billions = row("source.language", 1_047_085_609, 1_047_085_609, paper_left=1_047_085_609, paper_dropped=1)
    rewrite = row("text.symbols", 999_999_999, 999_999_999, "rewrite")
    head, line, rewritten = funnel_lines([billions, rewrite])
    ends = [head.index(name) + len(name) for name in ("left", "dropped", "%", "paper: left")]
    assert all(line[end - 1] != " " and line[end : end + 1] == " " for end in ends)
    assert len(line) == len(head)
    assert rewritten[: ends[1]].endswith(" (999,999,999)")


def test_a_stage_on_plain_files_tells_a_log_of_its_rows_once_a_minute(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(display.clock, "ticks", lambda: now[0])
    with display.working("dedup") as advance:
        for seconds in (1, 58, 2, 30, 31):
            now[0] += seconds
            advance(1000)
    said = [line.partition(" ")[2] for line in capsys.readouterr().out.splitlines()]
    assert said == ["dedup: 3,000 rows", "dedup: 5,000 rows"]
