"""`danqing logs`: why units failed, who did those that are done, and the last lines of what jobs said.

A log holds what the crawl, the network and libraries made a job say, so every line of one is hostile: it is shown with
control characters as escapes, cut where it is long, and only the end of the file is read.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from heapq import nlargest
from pathlib import Path

from toolkit.data.stage import Stage, stem
from toolkit.data.visible import visible
from toolkit.errors import UserError
from toolkit.run.failures import Failure, failures, read
from toolkit.run.ledger import Mark
from toolkit.run.records import ADVANCE, Record, log, records
from toolkit.run.run import Run

# Bytes read at the end of a log, and characters shown of a line.
TAIL_BYTES = 64 * 1024
LINE_CHARS = 400
# Failures and names of logs that are shown of a stage.
SHOWN = 20
NEWEST = 5


def overview(run: Run) -> Iterator[str]:
    """Return a line for each stage with failures or logs of jobs."""
    found = False
    for stage in run.stages:
        failed, logs = list(failures(run, stage)), newest(run.layout.logs(stage), 1)
        if failed or logs:
            found = True
            yield f"{stage.name}: {_failed(run, failed)}{f'; newest log {_shown(logs[0])}' if logs else ''}"
    if logs := newest(run.layout.jobs, 1):
        yield f"{ADVANCE}: newest log {_shown(logs[0])}"
    if not found:
        yield f"{_shown(run.layout.root)}: nothing failed, and no job wrote a log"


def _failed(run: Run, failed: Sequence[Failure]) -> str:
    gone = sum(f.attempts > run.config.executor.retries for f in failed)
    parts = [f"{len(failed) - gone:,} failed, to be tried again" if len(failed) > gone else ""]
    parts.append(f"{gone:,} set aside" if gone else "")
    return ", ".join(filter(None, parts)) or "no failures"


def of_stage(run: Run, stage: Stage, lines: int) -> Iterator[str]:
    """Return the failures of a stage, its newest logs, and the end of the one that tells of the newest failure."""
    failed = sorted(failures(run, stage), key=lambda f: f.time, reverse=True)
    yield f"{stage.name}: {_failed(run, failed)}"
    for failure in failed[:SHOWN]:
        yield _told(run, failure)
    if len(failed) > SHOWN:
        yield f"and {len(failed) - SHOWN:,} that failed before"
    logs = newest(run.layout.logs(stage), NEWEST)
    for path in logs:
        yield f"log {_shown(path)}"
    telling = [told for f in failed if (told := log_of(run, stage, f.job))]
    if telling or logs:
        yield from ending((telling or logs)[0], lines)
    elif failed:
        yield from trace(failed[0], lines)


def of_advance(run: Run, lines: int) -> Iterator[str]:
    """Return the newest logs of the jobs that decide what comes next, and the end of the newest."""
    logs = newest(run.layout.jobs, NEWEST)
    if not logs:
        yield f"{ADVANCE}: no job wrote a log"
        return
    for path in logs:
        yield f"log {_shown(path)}"
    yield from ending(logs[0], lines)


def of_unit(run: Run, stage: Stage, unit: int, lines: int) -> Iterator[str]:
    """Return how one unit is: who did it, or why it failed, or whose it is, and the end of that job's log."""
    units = run.all_units(stage)
    if not 0 <= unit < units:
        raise UserError(f"The stage {stage.name} of this run has the units 0 to {units - 1}, and no {unit}.")
    name, entry, failure = f"{stage.name} {stem(unit)}", run.valid(stage, unit), read(run, stage, unit)
    if entry is not None:
        yield f"{name}: done{_by(entry.mark)}"
        element = str(entry.mark.facts.get("job") or "")
    elif failure is not None:
        yield _told(run, failure, stage)
        yield from trace(failure, lines)
        element = failure.job or ""
    else:
        record = _last(run, stage, unit)
        element = record.element(record.task_of(unit) or 0) if record else ""
        yield f"{name}: not done{f', given to job {element} at {record.submitted}' if record else ''}"
    if path := log_of(run, stage, element):
        yield from ending(path, lines)


def _by(mark: Mark) -> str:
    """Return who did a unit, as its mark says."""
    facts = mark.facts
    words = [
        f" in {facts['seconds']} s" if "seconds" in facts else "",
        f", started {facts['started']}" if "started" in facts else "",
        f", on {facts['host']}" if "host" in facts else "",
        f", by job {facts['job']}" if facts.get("job") else "",
        f", attempt {facts['attempt']}" if "attempt" in facts else "",
    ]
    return visible("".join(words))


def _told(run: Run, failure: Failure, stage: Stage | None = None) -> str:
    gone = failure.attempts > run.config.executor.retries
    what = "set aside" if gone else "failed, will be tried again"
    times = f"{failure.attempts} attempt{'s' if failure.attempts != 1 else ''}"
    job = f", job {failure.job}" if failure.job else ""
    name = f"{stage.name} {stem(failure.unit)}" if stage else stem(failure.unit)
    return visible(f"{name}: {what} ({times}, {failure.time}{job}): {failure.reason}", 2 * LINE_CHARS)


def _last(run: Run, stage: Stage, unit: int) -> Record | None:
    """Return the newest record of jobs that were given a unit."""
    own = (r for r in reversed(records(run)) if r.stage == stage.name)
    return next((r for r in own if r.task_of(unit) is not None), None)


def log_of(run: Run, stage: Stage, element: str | None) -> Path | None:
    """Return the log of a job or array element; None where there is none."""
    if not re.fullmatch(r"[0-9]+(_[0-9]+)?", element or "") or element is None:
        return None
    path = log(run, stage, element)
    return path if path.is_file() else None


def newest(folder: Path, most: int) -> list[Path]:
    """Return the logs in a folder that were written to last, newest first."""
    found: list[tuple[float, str]] = []
    try:
        with os.scandir(folder) as entries:
            found.extend((e.stat().st_mtime, e.path) for e in entries if e.name.endswith(".log") and e.is_file())
    except OSError:
        return []  # no job of the stage has begun
    return [Path(path) for _, path in nlargest(most, found)]


def ending(path: Path, lines: int) -> Iterator[str]:
    """Return the last lines of a log below its name."""
    yield f"--- the end of {_shown(path)}"
    yield from tail(path, lines) or (["(it is empty)"] if lines else [])


def trace(failure: Failure, lines: int) -> Iterator[str]:
    """Return the last lines of Python's trace, where there is one."""
    if failure.trace:
        yield "--- the trace"
        yield from _visible(failure.trace, lines)


def tail(path: Path, lines: int) -> list[str]:
    """Return the last lines of a file, safe to show; none where it can not be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            text = file.read(TAIL_BYTES).decode("utf-8", "replace")
    except OSError:
        return []
    return _visible(text.partition("\n")[2] if size > TAIL_BYTES and "\n" in text else text, lines)


def _visible(text: str, lines: int) -> list[str]:
    """Return the last lines of a text; tabs are blanks, and of what a progress bar overwrote the last state is left."""
    rows = text.rstrip("\n").split("\n")[-lines:] if text and lines else []
    return [visible(row.rstrip("\r").rpartition("\r")[2].expandtabs(4), LINE_CHARS) for row in rows]


def command(word: str, run_dir: str | Path, *more: str) -> str:
    """Return a command about a run as somebody would type it."""
    return shlex.join(["danqing", word, str(run_dir), *more])


def _shown(path: Path) -> str:
    return visible(str(path))
