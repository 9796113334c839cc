"""What a run shows: progress bars on a terminal, plain lines in a log, and tables at the end."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from toolkit.data.stage import Kind, Stage, stem
from toolkit.data.visible import visible
from toolkit.recipe import BY_NAME
from toolkit.report import joins
from toolkit.report.logs import command
from toolkit.report.recall import TALLIES, counted, recall, words
from toolkit.run import clock, scheduler
from toolkit.run.drive import Outcome
from toolkit.run.funnel import funnel, tree
from toolkit.run.run import Run

MINUTE_S = 60.0


def display(run: Run) -> Lines | Bars:
    """Return progress bars where the output is a terminal, plain lines elsewhere."""
    return Bars(run) if sys.stdout.isatty() else Lines(run)


@contextmanager
def making(pairs: int) -> Iterator[Callable[[int], None]]:
    """Show how far the demo's crawl is."""
    if not sys.stdout.isatty():
        yield lambda rows: None
        return
    from rich.progress import Progress

    with Progress(transient=True) as progress:
        bar = progress.add_task("making the crawl", total=pairs)
        yield lambda rows: progress.advance(bar, rows)


@contextmanager
def working(stage: str) -> Iterator[Callable[[int], None]]:
    """Show how many rows a stage on plain files has done: in place on a terminal, elsewhere a line a minute."""
    if sys.stdout.isatty():
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        shown = TextColumn("{task.description} {task.completed:>12,} rows")
        with Progress(SpinnerColumn(), shown, TimeElapsedColumn(), transient=True) as progress:
            bar = progress.add_task(stage, total=None)
            yield lambda rows: progress.advance(bar, rows)
        return
    done, told = 0, clock.ticks()

    def advance(rows: int) -> None:
        nonlocal done, told
        done += rows
        if clock.ticks() >= told + MINUTE_S:
            told = clock.ticks()
            print(f"{clock.now()} {stage}: {done:,} rows", flush=True)

    yield advance


class Lines:
    """One line when a stage begins, ends, or fails."""

    def __init__(self, run: Run) -> None:
        self._start = clock.ticks()
        print(
            f"run {run.layout.root}: {run.shards} shards, {run.config.batches} batches, digest {run.digest}", flush=True
        )

    def begin(self, stage: Stage, todo: int, done: int, rows: int) -> None:
        """Say what a stage has to do."""
        self._begin, self._rows = clock.ticks(), 0
        before = f", {done} done before" if done else ""
        size = f", {rows:,} rows" if rows else ""
        print(f"{clock.now()} {stage.name}: {todo} units to do{before}{size}", flush=True)

    def rows(self, stage: Stage, rows: int) -> None:
        """Count."""
        self._rows += rows

    def unit(self, stage: Stage) -> None:
        """Say nothing: a log of ten thousand shards must stay readable."""

    def failed(self, stage: Stage, unit: int, reason: str, last: bool) -> None:
        """Name a failed attempt."""
        what = "set aside" if last else "will be tried again"
        print(f"{clock.now()} {stage.name} {stem(unit)} failed, {what}: {visible(reason)}", flush=True)

    def end(self, stage: Stage) -> None:
        """Say how long a stage took."""
        print(f"{clock.now()} {stage.name}: ended after {clock.ticks() - self._begin:.1f} s", flush=True)

    def close(self, run: Run, outcome: Outcome) -> None:
        """Print the funnel and where the dataset lies."""
        for line in summary(run, outcome, f" ({clock.ticks() - self._start:.1f} s)"):
            print(line, flush=True)


class Log(Lines):
    """The log of a job: whose it is, and what failed; who tries again is decided elsewhere."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        again = os.environ.get("SLURM_RESTART_COUNT", "0")
        host, element = os.environ.get("SLURMD_NODENAME", socket.gethostname()), scheduler.element()
        if element is not None:
            print(f"{clock.now()} task {element} on {host}, started again {again} times", flush=True)

    def failed(self, stage: Stage, unit: int, reason: str, last: bool) -> None:
        """Name a failed attempt."""
        print(f"{clock.now()} {stage.name} {stem(unit)} failed: {visible(reason)}", flush=True)


class Bars:
    """A bar a stage."""

    def __init__(self, run: Run) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._start = clock.ticks()
        self._console = Console(highlight=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description:<8}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("units {task.fields[rows]:>12,} rows"),
            TimeElapsedColumn(),
            console=self._console,
        )
        self._console.print(f"run {run.layout.root}: {run.shards} shards, {run.config.batches} batches", markup=False)
        self._progress.start()

    def begin(self, stage: Stage, todo: int, done: int, rows: int) -> None:
        """Open a bar."""
        self._task = self._progress.add_task(stage.name, total=todo + done, completed=done, rows=0)

    def rows(self, stage: Stage, rows: int) -> None:
        """Count rows."""
        self._progress.update(self._task, rows=self._progress.tasks[self._task].fields["rows"] + rows)

    def unit(self, stage: Stage) -> None:
        """Move the bar."""
        self._progress.advance(self._task)

    def failed(self, stage: Stage, unit: int, reason: str, last: bool) -> None:
        """Name a failed attempt above the bars."""
        what = "set aside" if last else "will be tried again"
        self._console.print(f"{stage.name} {stem(unit)} failed, {what}: {visible(reason)}", markup=False)

    def end(self, stage: Stage) -> None:
        """Leave the bar as it is."""

    def close(self, run: Run, outcome: Outcome) -> None:
        """Print the funnel and where the dataset lies."""
        self._progress.stop()
        for line in summary(run, outcome, f" ({clock.ticks() - self._start:.1f} s)"):
            self._console.print(line, markup=False)


def summary(run: Run, outcome: Outcome, took: str = "") -> Iterator[str]:
    """Return the last lines of a run."""
    yield from funnel_lines(tree(funnel(run)))
    yield from map(words, recall(run))
    damages = sum(run.marks(stage).sum("damages") for stage in run.stages)
    if damages:
        yield f"{damages} damaged records or files were passed over; `{command('status', run.layout.root)}` names them."
    if outcome.complete and run.complete(run.stages[-1]):
        yield f"The dataset is in {run.layout.data(run.stages[-1])}{took}."
        yield f"Next: {command('verify', run.layout.root)}"


def funnel_lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Return the funnel as a table with the paper's counts beside it; % is of the pairs that reached the step."""
    yield f"{'step':<21} {'left':>13} {'dropped':>13} {'%':>5} {'paper: left':>15} {'%':>5}"
    for row in _brief(rows):
        left, dropped, share = _ours(row)
        yield f"{row['step']:<21} {left:>13} {dropped:>13} {share:>5} {_paper(row)}".rstrip()


def _brief(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Leave out reasons of fetch that dropped nothing, and sum them up in one row, which the paper has too."""
    reasons = [row for row in rows if row["step"].startswith("fetch.")]
    for row in rows:
        if not row["step"].startswith("fetch."):
            yield row
        elif row["dropped"]:
            yield row | {"paper_left": None, "paper_dropped": None}
        if reasons and row is reasons[-1]:
            dropped = None if row["dropped"] is None else sum(r["dropped"] for r in reasons)
            yield row | {"step": "fetch (all reasons)", "dropped": dropped}


def _ours(row: dict[str, Any]) -> tuple[str, str, str]:
    """Return what a row says of this run: left, dropped, and the share that was dropped."""
    if row["state"] == "not run":
        return "not run", "", ""
    if row["left"] is None:
        return "not reached", "", ""
    left, dropped = f"{row['left']:,}", row["dropped"]
    if row["state"] == "rewrite":
        return left, f"({dropped:,})", "rewr."
    return left, "" if dropped is None else f"{dropped:,}", _share(row["left"], dropped)


def _paper(row: dict[str, Any]) -> str:
    if row["paper_left"] is None:
        return ""
    return f"{row['paper_left']:>15,} {_share(row['paper_left'], row['paper_dropped']):>5}"


def _share(left: int, dropped: int | None) -> str:
    reached = left + (dropped or 0)
    return "" if dropped is None or not reached else f"{100 * dropped / reached:.1f}"


def plan_lines(state: dict[str, Any]) -> Iterator[str]:
    """Return a plan as plain lines."""
    yield f"{state['run_dir']}  digest {state['digest']}"
    yield (
        f"{state['input_files']:,} input files, {state['input_bytes'] / 1e9:.3f} GB; {state['shards']:,} shards, "
        f"{state['batches']} batches; executor {state['executor']}"
        + ("" if state["cluster"] else f", {state['workers']} workers")
    )
    yield f"{'stage':<8} {'kind':<10} {'done':>13} {'rows':>13} {'GB':>10} {'core-hours':>11}"
    for row in state["stages"]:
        done = f"{row['done']:,}/{row['units']:,}"
        yield (
            f"{row['stage']:<8} {row['kind']:<10} {done:>13} {row['rows']:>13,} "
            f"{row['gigabytes']:>10,.3f} {row['core_hours']:>11,.3f}"
        )
    gigabytes, core_hours, hours = state["gigabytes"], state["core_hours"], state["hours"]
    if state["cluster"]:
        yield from _jobs_lines(state["cluster"])
    chain = " in the longest chain" if state["cluster"] else ""
    yield f"about {gigabytes:,.2f} GB on disk, {core_hours:,.2f} core-hours, {hours:,.2f} hours{chain}"
    yield "Rows of stages that have not run, and all hours, are estimates: the paper's shares, this toolkit's rates."


def _jobs_lines(cluster: dict[str, Any]) -> Iterator[str]:
    """Return what a plan asks of a cluster."""
    heads = ("jobs", "tasks", "shards/task", "cores/task", "minutes/task", "longest task, h", "stage, h")
    yield f"\n{'stage':<8} " + " ".join(f"{head:>{max(8, len(head))}}" for head in heads)
    for row in cluster["stages"]:
        minutes = "no limit" if row["minutes"] is None else f"{row['minutes']:,}"
        yield (
            f"{row['stage']:<8} {row['jobs']:>8,} {row['tasks']:>8,} {row['shards_per_task']:>11,} {row['cores']:>10,} "
            f"{minutes:>12} {row['task_hours']:>15,.3f} {row['hours']:>8,.3f}"
        )
    yield f"{cluster['jobs']:,} jobs (calls of sbatch) with {cluster['tasks']:,} tasks; nothing is submitted yet"
    for row in cluster["stages"]:
        if row["minutes"] is not None and row["task_hours"] * 60 > row["minutes"]:
            yield (
                f"{row['stage']}: its longest task may take {row['task_hours'] * 60:,.0f} minutes and asks for "
                f"{row['minutes']:,}; raise minutes, or lower shards_per_task (executor.site.stages.{row['stage']})"
            )
    known = "read from this cluster" if cluster["limits_read"] else "assumed, since Slurm could not be asked"
    yield f"Limits {known}: arrays of {cluster['max_array']:,}, {cluster['max_tasks']:,} tasks queued at one time."
    yield "The longest chain is without the time in the queue, and with room for all tasks of a stage at once."


def step_lines(run: Run, step: Any) -> Iterator[str]:
    """Return what one step of a run on a cluster found and did, and what can be done next."""
    for record in step.submitted:
        if record.stage in BY_NAME:
            units, tasks = len(record.all()), record.tasks
            yield f"submitted {record.stage}: {_many(units, 'unit')} in {_many(tasks, 'task')}, job {record.job}"
        else:
            yield f"submitted job {record.job}, which goes on with the run when they have ended; you may log out"
    moving = sorted({m.job for m in step.moving})
    if moving:
        more = ", ..." if len(moving) > 10 else ""
        yield f"under way already: {_many(len(moving), 'job')}, {', '.join(map(str, moving[:10]))}{more}"
    if step.cancelled:
        return
    root = run.layout.root
    if step.ended:
        yield from summary(run, step.outcome)
    else:
        yield f"Follow it:    {command('status', root)}"
        yield f"Call it back: {command('cancel', root)}"


def cancel_lines(run: Run, numbers: Sequence[int]) -> Iterator[str]:
    """Return what calling a run's jobs back did, and how it goes on."""
    if numbers:
        yield f"called back: {_many(len(numbers), 'job')}, {', '.join(map(str, numbers))}"
    else:
        yield "no job of this run waits or runs"
    yield f"What is finished is kept; `danqing run CONFIG` or `{command('retry', run.layout.root)}` goes on."


def _many(count: int, name: str) -> str:
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def clean_lines(rooms: Iterable[Any], done: bool) -> Iterator[str]:
    """Return what cleaning frees, and what can no longer be done afterwards."""
    freed = 0
    for room in rooms:
        freed += room.bytes
        what = "gone" if done else "would go"
        yield f"{room.stage:<8} {room.files:>8,} files {room.bytes / 1e9:>10,.3f} GB {what}; no more: {room.loses}"
    yield f"{freed / 1e9:,.3f} GB {'freed' if done else 'would be freed; add --yes to do it'}"


def stage_lines(task: Any) -> Iterator[str]:
    """Return what one stage on plain files did."""
    books = task.books
    for where, what in books.damage:
        yield f"damage: {visible(where)}: {visible(what)}"
    if books.damages > len(books.damage):
        yield f"damage: {books.damages - len(books.damage)} more"
    for step, rows in [*sorted(books.drops.items()), *sorted(books.counts.items())]:
        yield f"{step}: {rows:,}"
    if TALLIES[0] in books.tallies:
        yield words(counted(task.stage.name, books.tallies))
    ways = books.facts.get(joins.FACT, ())
    yield from joins.words({"stage": task.stage.name, "told": told, "units": 1} for told in ways)
    left = "" if task.stage.kind is Kind.REDUCE else f", {books.rows_out:,} of them not dropped"
    yield f"{task.stage.name}: {books.rows_in:,} rows written{left}"
