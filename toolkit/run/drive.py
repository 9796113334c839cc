"""Drive a run from stage to stage: what is done is skipped, what is stale is taken back, what fails is tried again.

This is the head of `danqing run` for the executors inline and local, and the inside of every job (`work`); it may be
killed and started again at any time. Between jobs on a cluster advance.py decides, by the same rules.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from toolkit.data.stage import Kind, Stage, stem
from toolkit.recipe import BY_NAME
from toolkit.run import files, signals
from toolkit.run.executors import EXECUTORS, Event, Execute
from toolkit.run.failures import forgive
from toolkit.run.funnel import funnel, tree
from toolkit.run.ledger import forward, tidy
from toolkit.run.run import Run


class Display(Protocol):
    """What is shown while a run goes on."""

    def begin(self, stage: Stage, todo: int, done: int, rows: int) -> None:
        """A stage starts: units to do, units done before, rows at its input."""

    def rows(self, stage: Stage, rows: int) -> None:
        """So many more rows were done."""

    def unit(self, stage: Stage) -> None:
        """A unit is done."""

    def failed(self, stage: Stage, unit: int, reason: str, last: bool) -> None:
        """An attempt failed; `last` when the unit is set aside."""

    def end(self, stage: Stage) -> None:
        """A stage ended."""


@dataclass
class Outcome:
    """How work ended: what failed with its reason, what had to wait for it, whether it was asked to stop."""

    aside: dict[tuple[str, int], str] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    stopped: bool = False
    done: int = 0
    given_up: list[int] = field(default_factory=list)  # units at work when the process was asked to stop

    @property
    def complete(self) -> bool:
        """Whether everything that was asked for is done."""
        return not (self.aside or self.waiting or self.stopped)


def drive(run: Run, display: Display, until: str | None = None) -> Outcome:
    """Run every stage up to `until`, of a run that this process holds."""
    chosen = stages_until(run, until)
    run.unclean()
    forgive(run)
    with EXECUTORS[run.config.executor.kind](run) as execute:
        driver = Driver(run, execute, display, run.config.executor.retries)
        for stage in chosen:
            driver.stage(stage)
            settle(run, stage)
            if signals.stopping():
                break
    driver.outcome.stopped = signals.stopping() and not all(run.complete(stage) for stage in chosen)
    return driver.outcome


def stages_until(run: Run, until: str | None) -> tuple[Stage, ...]:
    """Return the stages of a run up to one of them, or all."""
    return run.stages if until is None else run.stages[: run.stages.index(BY_NAME[until]) + 1]


def settle(run: Run, stage: Stage) -> None:
    """Put a stage's books in order after it went as far as it could: its marks folded, the funnel written."""
    if run.complete(stage):
        tidy(run.layout, stage)
        run.ledger.fold(stage)
    files.replace(run.layout.funnel, json.dumps(tree(funnel(run)), indent=1).encode())


@dataclass(frozen=True, slots=True)
class Wave:
    """Units of a stage that have no valid mark, and those of them whose input is there."""

    missing: list[int]
    todo: list[int]


def wave(run: Run, stage: Stage, units: Sequence[int]) -> Wave:
    """Return what is to be done of some units of a stage."""
    missing = run.missing(stage, units)
    return Wave(missing, [u for u in missing if run.ready(stage, u)])


@dataclass
class Driver:
    """One drive through the stages, and how it goes."""

    run: Run
    execute: Execute
    display: Display
    retries: int
    outcome: Outcome = field(default_factory=Outcome)

    def stage(self, stage: Stage, units: Sequence[int] | None = None) -> None:
        """Bring a stage, or some units of it, as far as they can go; its closing unit runs alone, and last."""
        self.run.forget(stage)
        last = self.run.units(stage)
        chosen = range(self.run.all_units(stage)) if units is None else units
        self.wave(stage, [u for u in chosen if u < last])
        self.wave(stage, [u for u in chosen if u == last])

    def wave(self, stage: Stage, units: Sequence[int]) -> None:
        """Do the units that are missing or stale and whose input is there."""
        run, found = self.run, wave(self.run, stage, units)
        missing, todo = found.missing, found.todo
        if len(todo) < len(missing):
            self.outcome.waiting.append(f"{stage.name}: {len(missing) - len(todo)} of {len(units)} units")
        # A dataset that is no longer true must not lie there as if it were, even if it can not be made again now.
        for unit in missing if stage is run.stages[-1] else todo:
            clear(run, stage, unit)
        if not todo or signals.stopping():
            return
        files.make(run.layout.work(stage))
        self.display.begin(stage, len(todo), len(units) - len(missing), _input_rows(run, stage, todo))
        self.rounds(stage, todo)
        self.display.end(stage)

    def rounds(self, stage: Stage, todo: list[int]) -> None:
        """Try the units; those that failed go round again until their retries are used up."""
        failures: Counter[int] = Counter()
        while todo and not signals.stopping():
            again: list[int] = []
            for event in self.execute(stage, todo):
                if event.kind == "failed":
                    failures[event.unit] += 1
                    if not self.give_up(stage, event, failures[event.unit]):
                        again.append(event.unit)
                else:
                    self.note(stage, event)
            todo = again

    def give_up(self, stage: Stage, event: Event, failures: int) -> bool:
        """Show a failed attempt; return whether its unit is set aside."""
        last = failures > self.retries
        self.display.failed(stage, event.unit, event.text, last)
        if last:
            self.outcome.aside[stage.name, event.unit] = event.text
        return last

    def note(self, stage: Stage, event: Event) -> None:
        """Take good news."""
        if event.kind == "rows":
            self.display.rows(stage, event.rows)
        elif event.kind == "stopped":
            self.outcome.given_up.append(event.unit)
        elif event.kind == "done":
            self.outcome.done += 1
            self.run.add(stage, event.unit)
            files.remove(self.run.layout.failure(stage, event.unit))
            self.display.unit(stage)


def clear(run: Run, stage: Stage, unit: int) -> None:
    """Make way for a new attempt: carry forward what was won, take back what is not valid, remove debris."""
    forward(run.layout, stage, unit)
    run.forget_unit(stage, unit)
    if run.valid(stage, unit) is None:
        run.retract(stage, unit)
    for path in run.layout.work(stage).glob(f"{stem(unit)}.*"):
        if path.is_dir() and files.dead(path.name.partition(".")[2]):
            files.clear(path)


def _input_rows(run: Run, stage: Stage, todo: list[int]) -> int:
    chain = run.chain(stage)
    if not chain:
        return 0
    entries = run.marks(BY_NAME[chain[0]])
    if stage.kind is Kind.MAP and len(entries) == run.shards:
        return sum(entries[u].mark.rows_out for u in todo if u in entries)
    return sum(e.mark.rows_out for e in entries.values())
