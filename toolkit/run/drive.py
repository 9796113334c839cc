"""Drive a run from stage to stage: what is done is skipped, what is stale is taken back, what fails is tried again.

This is the head of `danqing run` for the executors inline and local; it may be killed and started again at any time.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from toolkit.data.stage import Kind, Stage, stem
from toolkit.errors import UserError, WorkError
from toolkit.run import files, signals
from toolkit.run.executors import EXECUTORS, Event, Execute, inline
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
    """How a run ended: what is set aside with its reason, what had to wait for it, whether it was asked to stop."""

    aside: dict[tuple[str, int], str] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    stopped: bool = False

    @property
    def complete(self) -> bool:
        """Whether everything that was asked for is done."""
        return not (self.aside or self.waiting or self.stopped)


def drive(run: Run, display: Display, until: str | None = None) -> Outcome:
    """Run every stage up to `until`; raises WorkError where another process drives this run."""
    files.make(run.layout.root)
    lock = files.Lock(run.layout.lock)
    if not lock.taken:
        raise WorkError(f"Another process drives the run {run.layout.root}; wait for it, or end it and start again.")
    try:
        return _drive(run, display, until)
    finally:
        lock.free()


def _drive(run: Run, display: Display, until: str | None) -> Outcome:
    with EXECUTORS[run.config.executor.kind](run) as execute:
        driver = Driver(run, execute, display)
        for stage in run.stages:
            driver.stage(stage)
            if driver.outcome.stopped:
                break
            if run.complete(stage):
                tidy(run.layout, stage)
                run.ledger.fold(stage)
            files.replace(run.layout.funnel, json.dumps(tree(funnel(run)), indent=1).encode())
            if stage.name == until:
                break
    return driver.outcome


@dataclass
class Driver:
    """One drive through the stages, and how it goes."""

    run: Run
    execute: Execute
    display: Display
    outcome: Outcome = field(default_factory=Outcome)

    def stage(self, stage: Stage) -> None:
        """Bring a stage as far as it can go: its units, then its closing unit alone."""
        self.run.ledger.forget(stage)
        units = self.run.units(stage)
        self.wave(stage, range(units))
        if stage.close is not None and not self.outcome.stopped:
            self.wave(stage, range(units, units + 1))

    def wave(self, stage: Stage, units: range) -> None:
        """Do the units that are missing or stale and whose input is there."""
        run = self.run
        run.ledger.entries(stage)
        missing = [u for u in units if run.valid(stage, u) is None]
        todo = [u for u in missing if run.input_digests(stage, u) is not None]
        if len(todo) < len(missing):
            self.outcome.waiting.append(f"{stage.name}: {len(missing) - len(todo)} of {len(units)} units")
        if not todo:
            return
        files.make(run.layout.work(stage))
        for unit in todo:
            clear(run, stage, unit)
        self.display.begin(stage, len(todo), len(units) - len(missing), _input_rows(run, stage, todo))
        self.rounds(stage, todo)
        self.display.end(stage)

    def rounds(self, stage: Stage, todo: list[int]) -> None:
        """Try the units; those that failed go round again until their retries are used up."""
        failures: Counter[int] = Counter()
        while todo and not self.outcome.stopped:
            again: list[int] = []
            for event in self.execute(stage, todo):
                if event.kind == "failed":
                    failures[event.unit] += 1
                    if not self.give_up(stage, event, failures[event.unit]):
                        again.append(event.unit)
                else:
                    self.note(stage, event)
            self.outcome.stopped = signals.stopping()
            todo = again

    def give_up(self, stage: Stage, event: Event, failures: int) -> bool:
        """Show a failed attempt; return whether its unit is set aside."""
        last = failures > self.run.config.executor.retries
        self.display.failed(stage, event.unit, event.text, last)
        if last:
            self.outcome.aside[stage.name, event.unit] = event.text
        return last

    def note(self, stage: Stage, event: Event) -> None:
        """Take good news."""
        if event.kind == "rows":
            self.display.rows(stage, event.rows)
        elif event.kind == "done":
            self.run.ledger.add(stage, event.unit)
            files.remove(self.run.layout.failure(stage, event.unit))
            self.display.unit(stage)


def clear(run: Run, stage: Stage, unit: int) -> None:
    """Make way for a new attempt: take back what is stale, carry forward what was won, forget old failures."""
    forward(run.layout, stage, unit)
    if run.valid(stage, unit) is None:
        run.ledger.retract(stage, unit)
    files.remove(run.layout.failure(stage, unit))


def _input_rows(run: Run, stage: Stage, todo: list[int]) -> int:
    chain = run.chain(stage)
    if not chain:
        return 0
    entries = run.ledger.entries(next(s for s in run.stages if s.name == chain[0]))
    if stage.kind is Kind.MAP and len(entries) == run.shards:
        return sum(entries[u].mark.rows_out for u in todo if u in entries)
    return sum(e.mark.rows_out for e in entries.values())


def work(run: Run, stage: Stage, units: str, say: Callable[[str], None]) -> int:
    """Run units of one stage here, those that are missing and can run; return how many of them are not done."""
    chosen = [u for u in _numbers(units, run.all_units(stage)) if run.valid(stage, u) is None]
    ready = [u for u in chosen if run.input_digests(stage, u) is not None]
    for unit in sorted(set(chosen) - set(ready)):
        say(f"{stage.name} {stem(unit)}: its input is not complete")
    failed = len(chosen) - len(ready)
    files.make(run.layout.work(stage))
    for unit in ready:
        clear(run, stage, unit)
    with inline(run) as execute:
        for event in execute(stage, ready):
            failed += event.kind in ("failed", "stopped")
            if event.kind != "rows":
                say(f"{stage.name} {stem(event.unit)}: {event.kind} {event.text}".rstrip())
    return failed


def _numbers(text: str, units: int) -> list[int]:
    """Return the units that "0-99,120" names, or all."""
    try:
        ranges = [part.partition("-") for part in text.split(",") if part]
        chosen = {u for low, dash, high in ranges for u in range(int(low), int(high if dash else low) + 1)}
    except ValueError as error:
        raise UserError(f"--units {text}: expected numbers and ranges, for instance 0-99,120.") from error
    if chosen and max(chosen) >= units:
        raise UserError(f"--units {text}: this stage has units 0 to {units - 1}.")
    return sorted(chosen) or list(range(units))
