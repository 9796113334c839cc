"""`danqing` on ranks that are late by chance, of which one is hit: FAULT is "<what>:<rank>:<where>:<when>".

what: kill (SIGKILL) or stop (SIGUSR2). where: the part of the work, of WHERE below, and when: at which of its calls
to another rank or to the disk; or where: time, and when: seconds after the join began, or at its call LATEST at the
latest, so that much is left to do on a machine however fast.

The file LOG gets a line for each pair of blocks as it is joined and as it is sent to be saved, and for each save.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from mpi4py import MPI

from toolkit import cli
from toolkit.data import world
from toolkit.dedup import node, ring, stage
from toolkit.dedup.ledger import Ledger
from toolkit.dedup.screens import choice
from toolkit.run import files, mpi

WHERE = {
    "join": (stage, "components"),
    "save": (Ledger, "save"),
    "merge": (ring, "merge"),
    "choose": (stage, "survivors"),
    "write": (stage, "_write"),
}
LATEST = 30
RANK = MPI.COMM_WORLD.rank
what, rank, place, when = (os.environ.get("FAULT") or "none:-1:none:0").split(":")
late = random.Random(f"{os.environ['LATE']} {RANK}")
inside: list[str] = []
calls: Counter[str] = Counter()


def log(*words: object) -> None:
    """Add a line in one piece."""
    with Path(os.environ["LOG"]).open("ab", buffering=0) as file:
        file.write((" ".join(map(str, words)) + "\n").encode())


def hit(at: str) -> None:
    log("hit", what, at)
    os.kill(os.getpid(), signal.SIGKILL if what == "kill" else signal.SIGUSR2)


def begin(name: str) -> None:
    """Set the clock going where the blow is to fall at a time; then the kernel strikes, wherever this rank is."""
    inside.append(name)
    if name == "join" and place == "time" and int(rank) == RANK:
        log("hit", what, "time")
        if what == "stop":
            signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGUSR2))
        signal.setitimer(signal.ITIMER_REAL, float(when))  # by default it ends the process as SIGKILL does


def end(name: str) -> None:
    """Wait for a blow that was to fall before this."""
    while name == "join" and signal.getitimer(signal.ITIMER_REAL)[0]:
        time.sleep(0.01)
    inside.pop()


def call() -> None:
    """A call to another rank or to the disk."""
    if late.random() < 0.05:
        time.sleep(late.random() / 100)
    if inside:
        calls[inside[-1]] += 1
        where, count = ("join", LATEST) if place == "time" else (place, int(when))
        if inside[-1] == where and int(rank) == RANK and calls[where] == count:
            hit(place)


def wrap(owner: Any, name: str, before: Callable[..., object], after: Callable[..., object] = lambda *_: None) -> None:
    plain = getattr(owner, name)

    @wraps(plain)
    def wrapped(*given: Any, **named: Any) -> Any:
        before(*given)
        try:
            return plain(*given, **named)
        finally:
            after(*given)

    setattr(owner, name, wrapped)


def saved(write: Callable[..., Any]) -> Callable[..., Any]:
    """Log what was written; a write that another rank's end has broken off saves nothing."""

    @wraps(write)
    def wrapped(*given: Any) -> Any:
        result = write(*given)
        log("saved", RANK)
        return result

    return wrapped


for name in ("allgather", "bcast", "send", "receive"):
    for owner in (mpi.Ranks, world.Alone):
        wrap(owner, name, lambda *_: call())
for name in ("create", "sync_file", "sync_folder", "link", "remove", "make"):
    wrap(files.System, name, lambda *_: call())
for name, (owner, function) in WHERE.items():
    wrap(owner, function, lambda *_, name=name: begin(name), lambda *_, name=name: end(name))
wrap(Ledger, "save", lambda *_: log("sent", RANK))
Ledger._write = saved(Ledger._write)
wrap(Ledger, "note", lambda _, one, other, *rest: log("pair", RANK, min(one, other), max(one, other)))
stage.block_rows = lambda rows: 512  # 18 blocks and 171 pairs
node.hosts = lambda world: [str(rank % 2) for rank in range(world.size)]  # as if these were two nodes
ring.SAVE_FLOPS, ring.SAVES, choice.PANEL_BYTES, node.MERGE_ROWS = 0, 10**9, 1, 1000
sys.exit(cli.main())
