"""Being asked to stop: SIGTERM and SIGUSR2 (and the time limit, which Slurm announces by one of them) set one flag.

A stage that checkpoints looks at the flag and stops at its next safe point; the others stop where they report progress.
"""

from __future__ import annotations

import ctypes
import os
import signal
from types import FrameType

INTERRUPT = signal.SIGINT  # Ctrl-C
_PR_SET_PDEATHSIG = 1
_asked: int | None = None


def stopping() -> bool:
    """Return whether this process was asked to stop."""
    return _asked is not None


def by() -> int | None:
    """Return the signal that first asked this process to stop (0: no signal did); None while nobody asked."""
    return _asked


def ask(signum: int = 0, frame: FrameType | None = None) -> None:
    """Ask this process to stop at its next safe point."""
    global _asked  # noqa: PLW0603 (a signal handler has nothing else to write to)
    _asked = signum if _asked is None else _asked


def reset() -> None:
    """Forget an earlier request."""
    global _asked  # noqa: PLW0603
    _asked = None


def listen(*extra: signal.Signals) -> None:
    """Answer SIGTERM and SIGUSR2, and any extra signals, by stopping at the next safe point."""
    for signum in (signal.SIGTERM, signal.SIGUSR2, *extra):
        signal.signal(signum, ask)


def interrupt() -> None:
    """Answer SIGTERM as Ctrl-C: for commands that have nothing to keep, and files to clear away."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, so that no worker outlives a killed run."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
