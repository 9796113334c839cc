"""One forest that the ranks of a node grow at once loses no union."""

from __future__ import annotations

import json
from pathlib import Path

PROGRAM = Path(__file__).with_name("grow.py")


def test_ranks_that_unite_at_once_lose_nothing(launch):
    done = launch(4, PROGRAM, "20", PYTHONPATH=str(Path(__file__).parents[2]))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"forests": 20, "wrong": 0, "untold": 0}
