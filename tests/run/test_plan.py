"""The plan's estimates grow as the work does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crawl import config
from toolkit.config import load
from toolkit.run.plan import StagePlan, plan
from toolkit.run.run import look


def planned(folder: Path, pairs: int, batches: int) -> dict[str, StagePlan]:
    """Return the plan for a table of about so many pairs, which is as large as it says and holds nothing."""
    crawl = folder / f"{pairs}-{batches}"
    (crawl / "table").mkdir(parents=True)
    with (crawl / "table" / "a.csv.gz").open("wb") as file:
        file.truncate(150 * pairs)
    run = look(load(str(config(crawl, crawl, "127.0.0.1:9", "table", batches=batches))))
    return {row.stage: row for row in plan(run)}


def test_maps_grow_with_the_rows_and_joins_with_their_square(tmp_path: Path) -> None:
    small, large = planned(tmp_path, 10**7, 1), planned(tmp_path, 10**8, 1)
    assert large["fetch"].core_hours == pytest.approx(10 * small["fetch"].core_hours, rel=1e-3)
    assert large["dedup"].core_hours == pytest.approx(100 * small["dedup"].core_hours, rel=1e-3)


def test_batches_divide_the_first_join_and_not_the_last(tmp_path: Path) -> None:
    one, seven = planned(tmp_path, 10**8, 1), planned(tmp_path, 10**8, 7)
    assert seven["dedup"].core_hours == pytest.approx(one["dedup"].core_hours / 7, rel=1e-3)
    assert seven["merge"].core_hours == one["merge"].core_hours
