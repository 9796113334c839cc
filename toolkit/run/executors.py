"""Where units run: in this process, or in a pool of processes on this machine. One function and one line each.

An executor takes units of one stage and yields an `Event` for each step of news. It never decides what is done: the
ledger does. A worker that dies costs the unit that it was doing one attempt, and nothing else.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Literal

from toolkit.data.stage import Stage, Stopped
from toolkit.data.world import ALONE, World
from toolkit.recipe import BY_NAME
from toolkit.run import signals
from toolkit.run.failures import note
from toolkit.run.ledger import read_mark
from toolkit.run.run import Run, open_run
from toolkit.run.task import attempt


@dataclass(frozen=True, slots=True)
class Event:
    """News of one unit: rows done, done, failed (with the reason), or stopped."""

    kind: Literal["rows", "done", "failed", "stopped"]
    unit: int
    rows: int = 0
    text: str = ""


_NOTHING: tuple[str, int] | None = None
Execute = Callable[[Stage, Sequence[int]], Iterator[Event]]
Executor = Callable[[Run], AbstractContextManager[Execute]]


def processors() -> int:
    """Return the processors that this process may use."""
    return len(os.sched_getaffinity(0))


@contextmanager
def inline(run: Run, world: World = ALONE) -> Iterator[Execute]:
    """Run units one after another in this process; the other ranks of its world follow it."""

    def execute(stage: Stage, units: Sequence[int]) -> Iterator[Event]:
        for unit in units:
            news: list[Event] = []
            world.bcast((stage.name, unit))
            event = _attempt(run, stage, unit, lambda rows, n=news, u=unit: n.append(Event("rows", u, rows)), world)  # type: ignore[misc]
            yield from [*news, event]
            if signals.stopping():
                return

    yield execute
    world.bcast(None)


def follow(run: Run, world: World) -> None:
    """Work on each unit that rank 0 takes up, until it has no more."""
    while (job := world.bcast(_NOTHING)) is not None:
        run.forget()
        with contextlib.suppress(Stopped):
            attempt(run, BY_NAME[job[0]], job[1], world=world)


def _attempt(run: Run, stage: Stage, unit: int, on_advance: Callable[[int], None], world: World = ALONE) -> Event:
    """Do one unit; a failure is an event with its reason, its trace goes to the stage's log folder."""
    try:
        attempt(run, stage, unit, on_advance, world)
    except Stopped as stopped:
        return Event("stopped", unit, text=str(stopped))
    except Exception as error:
        return Event("failed", unit, text=note(run, stage, unit, error))
    if read_mark(run.layout.mark(stage, unit)) is None:
        return Event("failed", unit, text=note(run, stage, unit, "the unit was published, but has no readable mark"))
    return Event("done", unit)


@contextmanager
def local(run: Run, workers: int | None = None) -> Iterator[Execute]:
    """Run units in worker processes that live as long as the run, each unit in whichever worker is free."""
    pool: list[Worker] = []
    most = workers or run.config.executor.workers or processors()

    def execute(stage: Stage, units: Sequence[int]) -> Iterator[Event]:
        todo = deque(units)
        wanted = min(most, len(todo))
        while todo or any(w.unit is not None for w in pool):
            pool[:] = [w for w in pool if w.usable]
            pool.extend(Worker(run.layout.root) for _ in range(wanted - len(pool) if todo else 0))
            for worker in [w for w in pool if w.unit is None][: len(todo)]:
                worker.give(stage, todo.popleft())
            yield from _news(run, stage, pool)
            if signals.stopping():
                todo.clear()
                for worker in pool:
                    worker.ask()

    try:
        yield execute
    finally:
        for worker in pool:
            worker.end()


def _news(run: Run, stage: Stage, pool: list[Worker]) -> Iterator[Event]:
    busy = {w.connection: w for w in pool if w.unit is not None}
    for connection in wait(list(busy), timeout=1.0):
        worker = busy[connection]  # type: ignore[index]
        assert worker.unit is not None
        try:
            event = worker.connection.recv()
        except (EOFError, ConnectionError):
            worker.process.join()
            unit, worker.unit = worker.unit, None
            event = _ended(run, stage, unit, worker.process.exitcode)
        if event.kind != "rows":
            worker.unit = None
        yield event


def _ended(run: Run, stage: Stage, unit: int, code: int | None) -> Event:
    """Return the news of a unit whose worker is no more."""
    if signals.stopping() and code == -signal.SIGTERM:  # asked to stop before it listened
        return Event("stopped", unit)
    return Event("failed", unit, text=note(run, stage, unit, _death(code)))


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        hint = "; the kernel does so when memory runs out" if -code == signal.SIGKILL else ""
        return f"the worker was killed by {signal.Signals(-code).name}{hint}"
    return f"the worker ended with exit code {code}"


class Worker:
    """One process of the local pool and the pipe to it."""

    def __init__(self, root: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, str(root)), name="danqing-worker")
        self.process.start()
        theirs.close()
        self.unit: int | None = None
        self._asked = False

    @property
    def usable(self) -> bool:
        """Whether the process lives, or died with a unit that is still to be reported."""
        return self.process.is_alive() or self.unit is not None

    def give(self, stage: Stage, unit: int) -> None:
        """Hand the worker a unit."""
        self.unit = unit
        with contextlib.suppress(ConnectionError):  # it died: the closed pipe is found when news is awaited
            self.connection.send((stage.name, unit))

    def ask(self) -> None:
        """Ask the worker to stop at its next safe point."""
        if not self._asked and self.process.is_alive() and self.process.pid:
            self._asked = True
            os.kill(self.process.pid, signal.SIGTERM)

    def end(self) -> None:
        """Let the worker go, or make it."""
        self.connection.close()
        if self.unit is not None:
            self.process.kill()
        self.process.join()


def _work(connection: Connection, root: str) -> None:
    """Serve units until the pipe closes. Ctrl-C reaches the whole terminal group; only the head acts on it."""
    signals.die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signals.listen()
    run, last = open_run(root), ""
    while True:
        try:
            name, unit = connection.recv()
        except EOFError:
            return
        if name != last or unit >= run.units(BY_NAME[name]):
            run.forget()  # the head goes on to the next stage when this one has ended
            last = name
        connection.send(
            _attempt(run, BY_NAME[name], unit, lambda rows, u=unit: connection.send(Event("rows", u, rows)))  # type: ignore[misc]
        )


EXECUTORS: dict[str, Executor] = {"inline": inline, "local": local}
