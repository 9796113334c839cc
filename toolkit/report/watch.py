"""`danqing run --wait` on a cluster: how many units are done, as bars on a terminal and as lines in a log.

It counts marks, as everything does, so what it shows is true whoever did the work.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from toolkit.run import clock
from toolkit.run.run import Run

# A log gets a line at each further part of a stage that is done, not at each look.
STEPS = 50


@contextmanager
def watch(run: Run) -> Iterator[Callable[[], None]]:
    """Yield what shows how far the run is whenever it is called."""
    if not sys.stdout.isatty():
        yield Lines(run).show
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description:<8}"), BarColumn(), MofNCompleteColumn(), TextColumn("units"))
    with Progress(*columns) as progress:
        bars = {name: progress.add_task(name, total=units) for name, _, units in counts(run)}

        def show() -> None:
            for name, done, units in counts(run):
                progress.update(bars[name], completed=done, total=units)

        show()
        yield show


def counts(run: Run) -> Iterator[tuple[str, int, int]]:
    """Yield each stage's name, units that are done, and units; stages that are not complete are looked at again."""
    for stage in run.stages:
        if not run.complete(stage):
            run.forget(stage)
        yield stage.name, len(run.marks(stage)), run.all_units(stage)


class Lines:
    """Says what changed since it last did."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._said = {name: done for name, done, _ in counts(run)}

    def show(self) -> None:
        """Print a line for each stage that is a good part further, or done."""
        for name, done, units in counts(self._run):
            before = self._said[name]
            if done != before and (done == units or abs(done - before) * STEPS >= units):
                self._said[name] = done
                print(f"{clock.now()} {name}: {done:,} of {units:,} units done", flush=True)
