"""What each of several ranks holds: its own part and windows; the forest they have in common."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("memory.py")
ROWS, PAGE = 4000, resource.getpagesize()
WINDOWS = 130_000  # for the windows of the program, three blocks of 64 rows among them


@pytest.mark.parametrize(("kind", "stay"), [("twos", ROWS // 2), ("near", 1)])
def test_a_rank_holds_its_part_and_a_node_the_forest(launch, kind, stay):
    """Each row has one edge; or every pair is one, eight million, and one set is as large as everything.

    Bytes are as the docstrings of ring and survivors say; while survivors are chosen lengths are there too, 8 a row.
    """
    done = launch(4, PROGRAM, kind, ROWS, PYTHONPATH=str(Path(__file__).parents[2]))
    assert done.returncode == 0, done.stderr
    ranks = [json.loads(line) for line in done.stdout.splitlines()]
    assert [rank["rows"] for rank in ranks] == [1024, 1024, 1024, 928]
    assert sum(rank["stay"] for rank in ranks) == stay
    for rank in ranks:
        assert 4 * ROWS <= rank["forest"] < 4 * ROWS + PAGE
        assert rank["joined"] <= 135 * rank["rows"] + WINDOWS, ranks
        assert rank["chosen"] <= (115 + 8) * rank["rows"] + WINDOWS, ranks
