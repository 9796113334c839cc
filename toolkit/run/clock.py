"""The only clock. What it says goes into marks and logs, never into published data."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def now() -> str:
    """Return the time of day in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def ticks() -> float:
    """Return seconds of a clock that never goes back; only differences mean something."""
    return time.monotonic()


def sleep(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)
