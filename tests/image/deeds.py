"""Work for the guard's tests: each item says in its bytes what it does to the child that runs it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from toolkit.guard import Fault


def deed(data: bytes, marker: str = "") -> bytes:
    name, _, rest = data.partition(b":")
    return {b"echo": echo, b"kill": kill, b"once": once, b"spin": spin, b"hog": hog, b"fault": fault}.get(name, echo)(
        rest, marker
    )


def echo(rest: bytes, marker: str) -> bytes:
    print("libraries print, on both channels")
    print("of which neither is the answers'", file=sys.stderr)
    return rest[::-1]


def kill(rest: bytes, marker: str) -> bytes:
    os.kill(os.getpid(), signal.SIGKILL)
    return b""


def once(rest: bytes, marker: str) -> bytes:
    """Die the first time, as by somebody else's hand (files can not be written in the child, folders can be made)."""
    try:
        Path(marker).mkdir()
    except FileExistsError:
        return b"alive"
    return kill(rest, marker)


def spin(rest: bytes, marker: str) -> bytes:
    while True:
        pass


def hog(rest: bytes, marker: str) -> bytes:
    return bytes([int(np.ones(int(rest) * 1_000_000, np.uint8)[-1])])


def fault(rest: bytes, marker: str) -> bytes:
    raise Fault(rest.decode())


def pid(data: bytes) -> bytes:
    return str(os.getpid()).encode()


def sleep(data: bytes) -> bytes:
    time.sleep(60)
    return b""


def crash_in_c(data: bytes) -> bytes:
    ctypes.string_at(0)
    return b""
