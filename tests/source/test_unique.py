"""Of equal ids the first in input order stays, whatever the number of parts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from tests.source.crawlfiles import MemoryTask
from toolkit.source import unique

IDS = st.builds(
    lambda start, end: f"{start:03x}{'0' * 27}{end:02x}", st.integers(0, 4095), st.sampled_from([0, 1, 255])
)
ROW = st.tuples(
    st.one_of(st.sampled_from(["0" * 32, "f" * 32, "8" + "0" * 31]), IDS), st.sampled_from([None, None, "source.url"])
)
SHARDS = st.lists(st.lists(ROW, max_size=8), min_size=1, max_size=4)


def table(rows: list[tuple[str, str | None]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [[], []]
    return pa.table({"id": pa.array(columns[0], pa.string()), "dropped": pa.array(columns[1], pa.string())})


def run(shards: list[pa.Table], parts: int) -> list[dict[str, object]]:
    found = []
    for part in range(parts):
        task = MemoryTask()
        task.unit, task.parts, task.sources = part, parts, shards
        unique.run(task)
        found += task.written("unique").to_pylist()
    return found


def reference(shards: list[list[tuple[str, str | None]]]) -> list[dict[str, object]]:
    first: dict[str, tuple[int, int]] = {}
    found = []
    for shard, rows in enumerate(shards):
        for row, (name, dropped) in enumerate(rows):
            if dropped is None and first.setdefault(name, (shard, row)) != (shard, row):
                place = {"id": name, "shard": shard, "row": row}
                place |= {"first_shard": first[name][0], "first_row": first[name][1], "dropped": "source.duplicate"}
                found.append(place)
    return found


def place(row: dict[str, object]) -> tuple[object, object]:
    return row["shard"], row["row"]


@given(SHARDS, st.sampled_from([1, 2, 16]))
def test_the_first_stays_as_in_a_plain_reference(shards, parts):
    found = run([table(rows) for rows in shards], parts)
    assert sorted(found, key=place) == reference(shards)


@given(SHARDS)
def test_one_part_is_sorted_by_shard_and_row(shards):
    found = run([table(rows) for rows in shards], 1)
    assert found == sorted(found, key=place)


def test_sliced_and_chunked_columns_are_read_right():
    rows = table([(f"{n:032x}", None) for n in range(10)])
    chunks = pa.concat_tables([rows.slice(3, 4), rows.slice(5, 2)])
    assert [row["id"] for row in run([chunks], 1)] == [f"{5:032x}", f"{6:032x}"]


def test_the_parts_are_ranges_of_the_first_twelve_bits():
    ids = pa.chunked_array([[f"{start:03x}" + "0" * 29 for start in range(0, 4096, 7)]])
    rows = np.arange(len(ids))
    for parts in (1, 2, 1024, 4096):
        shown = [part for part in (0, parts // 3, parts - 1) for _ in unique.entries(ids, rows, 0, part, parts)]
        expected = [
            part for part in (0, parts // 3, parts - 1) for start in range(0, 4096, 7) if start * parts >> 12 == part
        ]
        assert shown == expected
