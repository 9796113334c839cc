"""`danqing` with a fault: FAULT is "kill" or "raise" or "stop", on rank FAULT_RANK, before tile FAULT_TILE.

Every tile is counted in the file TILES, and the ledger saves after each turn.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from pathlib import Path

from mpi4py import MPI

from toolkit import cli
from toolkit.dedup import ring
from toolkit.dedup.screens import choice

RANK = MPI.COMM_WORLD.rank
plain, count = ring.tile, itertools.count(1)


def tile(*arguments: object) -> None:
    done = next(count)
    if int(os.environ.get("FAULT_RANK", "-1")) == RANK and done == int(os.environ["FAULT_TILE"]):
        fault(os.environ["FAULT"])
    plain(*arguments)
    with Path(os.environ["TILES"]).open("a") as file:
        file.write(".")


def fault(kind: str) -> None:
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "stop":
        os.kill(os.getpid(), signal.SIGUSR2)
    if kind == "raise":
        raise ArithmeticError("a planted fault")


ring.tile = tile
ring.SAVE_FLOPS, ring.SAVES, choice.PANEL_BYTES = 0, 10**9, 1
sys.exit(cli.main())
