"""What a report says of a pair that lost against a like one."""

from __future__ import annotations

import pytest

from toolkit.config.config import check
from toolkit.report.reasons import reason


@pytest.mark.parametrize(
    ("best", "batch", "merge"),
    [
        (None, "", ""),
        ("sharpness", "; b has the highest sharpness and stays", "; b has the highest sharpness and stays"),
        ("-bytes", "; b has the lowest bytes and stays", "; b has the lowest bytes and stays"),
        ("cosine", "", "; b has the highest cosine and stays"),  # a batch is decided before it is measured
    ],
)
def test_the_column_is_named_by_which_the_best_stays(best: str | None, batch: str, merge: str) -> None:
    keep = {"keep": "best", "best": best} if best else {}
    config = check({"input": {"kind": "table", "paths": ["-"]}, "dedup": keep}, "test")
    row = {"id": "a", "set": "b", "size": 3, "distance": 0.02}
    plain = "in a set of 3, linked by distances below 0.1; 0.02 from its centroid"
    assert reason("dedup.batch", row, config) == plain + batch
    assert reason("merge.global", row, config) == plain + merge
