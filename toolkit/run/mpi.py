"""MPI ranks as a world (data/world.py): found out, checked against the launcher, and ended together.

mpi4py is imported here and nowhere else, and only in a process that a launcher has started as one of several. Any MPI
library that mpi4py finds will do; the `mpich` wheel is there by default.
"""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from toolkit.data.stage import Stopped
from toolkit.data.visible import visible
from toolkit.data.world import ALONE, Transfer, Value, World
from toolkit.errors import UserError, WorkError
from toolkit.run import clock, signals

# What launchers tell the processes that they start: mpiexec of MPICH (and what follows it) and srun --mpi=pmi2, mpiexec
# of Open MPI, srun of any kind. The nearest launcher comes first: mpiexec in a Slurm job starts its helpers by srun. A
# batch script has SLURM_NTASKS too, but is no step and no rank.
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
# Bytes in one message: older MPI libraries count in 31 bits.
MESSAGE_BYTES = 1 << 29
# Between a rank's last words and its abort: what MPICH's mpiexec has not read by then it may drop, as it did for 6 of
# 140 failed jobs on a busy machine; with a pause, for none of 60.
HEARD_S = 1.0


def alone() -> World:
    """Return a world of one rank; MPI is not touched."""
    return ALONE


def launched() -> int:
    """Return how many processes the launcher says that it has started; 1 where there is none."""
    found = (os.environ.get(name, "") for name in SIZES)
    return next((int(size) for size in found if size.isdigit()), 1)


def world() -> World:
    """Return the world that this process was started in.

    Raises UserError where MPI sees other processes than the launcher has started: then each would do all the work.
    """
    started = launched()
    if started == 1:
        return alone()
    comm = _comm()
    if comm.size != started:
        raise UserError(
            f"Found an MPI world of {comm.size} where the launcher started {started} processes; expected one world of "
            f"{started}. The launcher and the MPI library do not know each other. With the mpich wheel start "
            "`srun --mpi=pmi2` (site option mpi) or the `mpiexec` beside danqing; with the system's MPI build mpi4py "
            "against it (pip install --no-binary mpi4py --force-reinstall mpi4py) and use its launcher."
        )
    return Ranks(comm)


def _comm() -> Any:
    """Start MPI and return all processes that it knows."""
    try:
        import mpi4py

        mpi4py.rc.thread_level = "funneled"  # one thread of a rank speaks; MPI needs no locks
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"This process is one of {launched()}, and MPI can not be loaded: {' '.join(str(error).split())}. "
            "Install it with `pip install mpi4py mpich`, or load the system's MPI module."
        ) from error
    return MPI.COMM_WORLD


class Ranks:
    """The ranks of an MPI communicator."""

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self.rank: int = comm.rank
        self.size: int = comm.size

    def bcast(self, value: Value) -> Value:
        """Return rank 0's value."""
        result: Value = self._comm.bcast(value, root=0)
        return result

    def allgather(self, value: Value) -> list[Value]:
        """Return the values of all ranks."""
        result: list[Value] = self._comm.allgather(value)
        return result

    def send(self, array: Any, to: int) -> Transfer:
        """Start to send an array."""
        return Messages([self._comm.Isend(part, dest=to) for part in messages(array)])

    def receive(self, array: Any, source: int) -> Transfer:
        """Start to receive an array."""
        return Messages([self._comm.Irecv(part, source=source) for part in messages(array)])

    def abort(self, code: int) -> None:
        """End all ranks now."""
        self._comm.Abort(code)


class Messages:
    """The messages of one array."""

    def __init__(self, requests: list[Any]) -> None:
        self._requests = requests

    def poke(self) -> None:
        """Let them go on."""
        for request in self._requests:
            request.Test()

    def wait(self) -> None:
        """Return when all have arrived."""
        for request in self._requests:
            request.Wait()


def messages(array: Any, size: int = MESSAGE_BYTES) -> list[Any]:
    """Return views of an array's bytes, each small enough for one message; raises ValueError where it has gaps."""
    if not array.flags.c_contiguous:
        raise ValueError("only contiguous arrays travel")
    if not array.nbytes:
        return []
    flat = array.reshape(-1).view("u1")
    return [flat[start : start + size] for start in range(0, len(flat), size)]


@contextmanager
def guard(world: World, tell: Callable[[Exception], object] = lambda error: None) -> Iterator[None]:
    """End all ranks where this one fails, since the others would wait for it for ever; `tell` hears why first.

    The exit code is 2 for a UserError and 1 for all others (srun shows 137, for the ranks that are killed). `Stopped`,
    on which all ranks agree, passes; so does everything in a world of one.
    """
    try:
        yield
    except Stopped:
        if world.size > 1:
            signals.ask()  # whichever rank was asked
        raise
    except (Exception, KeyboardInterrupt) as error:
        if world.size == 1:
            raise
        lost = type(error).__module__.startswith("mpi4py")
        if isinstance(error, Exception) and not lost:  # another rank's end is no failure of this work
            tell(error)
        trace = "".join(traceback.format_exception(error)) if "--debug" in sys.argv else ""
        where = f"rank {world.rank} of {world.size} on {socket.gethostname()}"
        said = f"{'another rank is lost: ' if lost else ''}{_said(error)}"
        sys.stderr.write(f"{trace}danqing: {where}: {said}. All ranks end with it.\n")
        sys.stderr.flush()
        sys.stdout.flush()
        _end(world, 2 if isinstance(error, UserError) else 1)
        raise


def _said(error: BaseException) -> str:
    """Return an error in one line."""
    name = "" if isinstance(error, UserError | WorkError) else f"{type(error).__name__}: "
    return visible(" ".join(f"{name}{error}".split())).rstrip(".:")


def _end(world: World, code: int) -> None:
    if isinstance(world, Ranks):
        clock.sleep(HEARD_S)
        world.abort(code)
        os._exit(code)  # srun's PMI takes note of the abort and returns
