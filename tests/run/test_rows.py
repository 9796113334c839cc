"""`gather` against a plain reference: filter by hand, stage after stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.errors import WorkError
from toolkit.run.rows import gather

CHAIN = ("image", "fetch", "text", "source")
COLUMN = {"source": "url", "text": "caption", "fetch": "status", "image": "width"}


class Tables:
    """Tables in memory, with a record of what was read."""

    def __init__(self, tables: dict[str, pa.Table], duplicates: list[int]) -> None:
        self._tables, self._duplicates = tables, duplicates
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    def read(self, stage: str, columns: Sequence[str]) -> pa.Table:
        self.asked.append((stage, tuple(columns)))
        return self._tables[stage].select(list(columns))

    def duplicates(self) -> Any:
        return np.array(self._duplicates, dtype=np.int64)


@st.composite
def stories(draw: st.DrawFn) -> tuple[dict[str, pa.Table], list[int], list[dict[str, Any]]]:
    """Return tables, duplicates, and the rows that a plain loop finds alive at the end."""
    rows = [{"id": f"{i:032x}", "url": f"u{i}", "row": i} for i in range(draw(st.integers(0, 30)))]
    tables: dict[str, pa.Table] = {}
    duplicates: list[int] = []
    for stage in reversed(CHAIN):
        for i, row in enumerate(rows):
            if stage != "source":
                row[COLUMN[stage]] = f"{stage}{i}"
        drops = [draw(st.booleans()) for _ in rows]
        names = ["id", COLUMN[stage]]
        columns = {name: pa.array([row[name] for row in rows], pa.string()) for name in names}
        dropped = pa.array(["x" if drop else None for drop in drops], pa.string())
        tables[stage] = pa.table(columns | {"dropped": dropped})
        rows = [row for row, drop in zip(rows, drops, strict=True) if not drop]
        if stage == "source" and rows:
            duplicates = sorted(draw(st.sets(st.sampled_from([r["row"] for r in rows]))))
            rows = [row for row in rows if row["row"] not in duplicates]
    return tables, duplicates, rows


@given(stories())
def test_columns_of_any_stage_follow_the_living_rows(
    story: tuple[dict[str, pa.Table], list[int], list[dict[str, Any]]],
) -> None:
    tables, duplicates, rows = story
    names = ("id", "url", "caption", "status", "width")
    found = gather(CHAIN, names, Tables(tables, duplicates), unique=True)
    assert found.to_pylist() == [{name: row[name] for name in names} for row in rows]


def test_only_the_stages_that_are_needed_are_read() -> None:
    table = pa.table({"id": ["a"], "width": ["1"], "dropped": pa.nulls(1, pa.string())})
    source = Tables({"image": table}, [])
    gather(CHAIN, ("id", "width"), source, unique=True)
    assert source.asked == [("image", ("id", "width", "dropped"))]


def test_tables_that_do_not_fit_are_refused() -> None:
    nothing = pa.nulls(2, pa.string())
    tables = {
        "text": pa.table({"id": ["a", "b"], "dropped": nothing}),
        "source": pa.table({"id": ["a", "b"], "url": ["u", "v"], "dropped": pa.array([None, "x"], pa.string())}),
    }
    with pytest.raises(WorkError, match="has 2 rows where source left 1"):
        gather(("text", "source"), ("id", "url"), Tables(tables, []), unique=True)
