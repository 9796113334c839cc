"""What all tests share: where real data lies, and fixed seeds."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Seeds are fixed: a failure is the same failure on every machine.
settings.register_profile(
    "fixed", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("fixed")

# A shell has what it starts in the background ignore Ctrl-C, and so would every command that a test starts and stops.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photographs, web pairs and WARC files; the test is skipped where it is missing."""
    if not SHARED.is_dir():
        pytest.skip("the shared test data (../shared/data) is not on this machine")
    return SHARED
