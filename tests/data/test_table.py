"""Tables: exact schemas, and bytes that depend on the rows alone."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.data.pair import COLUMNS, schema
from toolkit.data.table import ROW_GROUP, build, find, opened, read, regroup, write

SCHEMA = pa.schema(
    [("id", pa.string()), ("small", pa.int16()), ("value", pa.float64()), ("names", pa.list_(pa.string()))]
)


def rows(count: int) -> pa.Table:
    numbers = range(count)
    return build(
        SCHEMA,
        {
            "id": [None if n % 11 == 0 else f"{n * 7919 % 10_007:032x}" for n in numbers],
            "small": [None if n > count // 2 else n % 300 for n in numbers],
            "value": np.arange(count) / 7,
            "names": [None if n % 5 == 0 else ["中文"] * (n % 3) for n in numbers],
        },
    )


def cut(table: pa.Table, places: list[int]) -> Iterator[pa.Table]:
    edges = sorted([0, *(place % (table.num_rows + 1) for place in places), table.num_rows])
    return (table.slice(low, high - low) for low, high in pairwise(edges))


def parquet(*tables: pa.Table) -> bytes:
    sink = io.BytesIO()
    assert write(sink, SCHEMA, tables) == sum(table.num_rows for table in tables)
    return sink.getvalue()


BIG = rows(2 * ROW_GROUP + 123)
BIG_BYTES = parquet(BIG)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 10**6), max_size=6))
def test_any_cut_gives_the_same_bytes(places: list[int]) -> None:
    assert parquet(*cut(BIG, places)) == BIG_BYTES


def test_rows_one_by_one_give_the_same_bytes() -> None:
    table = rows(300)
    assert parquet(*(table.slice(n, 1) for n in range(300))) == parquet(table)


def test_chunks_and_offsets_inside_a_table_leave_no_trace() -> None:
    padded = pa.concat_tables([rows(7), BIG, rows(3)])
    assert parquet(padded.slice(7, BIG.num_rows)) == BIG_BYTES


@pytest.mark.parametrize("count", [0, 1, ROW_GROUP - 1, ROW_GROUP, ROW_GROUP + 1, 2 * ROW_GROUP])
def test_row_groups_are_of_exactly_ten_thousand(count: int) -> None:
    meta = pq.ParquetFile(io.BytesIO(parquet(rows(count)))).metadata
    groups = [meta.row_group(number).num_rows for number in range(meta.num_row_groups)]
    full, rest = divmod(count, 10_000)
    assert groups == [10_000] * full + [rest] * (rest > 0)


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(1, 7))
def test_regroup_keeps_order_and_fills_every_piece(sizes: list[int], size: int) -> None:
    numbers = pa.table({"n": range(sum(sizes))})
    starts = np.cumsum([0, *sizes])
    pieces = list(regroup((numbers.slice(a, s) for a, s in zip(starts, sizes, strict=False)), size))
    assert [n for piece in pieces for n in piece["n"].to_pylist()] == list(range(sum(sizes)))
    assert all(piece.num_rows == size for piece in pieces[:-1])
    assert all(0 < piece.num_rows <= size for piece in pieces[-1:])


def test_a_stream_is_read_only_as_far_as_it_is_written() -> None:
    taken = []

    def stream() -> Iterator[pa.Table]:
        for number in range(4):
            taken.append(number)
            yield pa.table({"n": [number, number]})

    pieces = regroup(stream(), 2)
    next(pieces)
    assert taken == [0]


@pytest.mark.parametrize("stage", sorted({column.stage for column in COLUMNS}))
def test_every_stage_reads_back_the_schema_that_it_wrote(stage: str) -> None:
    sink = io.BytesIO()
    empty = build(schema(stage), {name: [] for name in schema(stage).names})
    write(sink, schema(stage), [empty])
    assert read(sink).schema == schema(stage)


def test_values_and_nulls_read_back() -> None:
    sink = io.BytesIO()
    write(sink, SCHEMA, [rows(40)])
    assert read(sink).equals(rows(40))
    assert read(sink, ["value", "id"]).column_names == ["value", "id"]


def test_the_sink_stays_open_with_the_file_at_its_end() -> None:
    sink = io.BytesIO()
    write(sink, SCHEMA, [])
    assert sink.tell() == len(sink.getvalue()) > 0


def test_a_table_of_another_schema_is_refused() -> None:
    with pytest.raises(ValueError, match="schema"):
        write(io.BytesIO(), SCHEMA, [pa.table({"id": ["a"]})])


@pytest.mark.parametrize("names", [["id"], [*SCHEMA.names, "more"]])
def test_build_names_the_columns_that_do_not_match(names: list[str]) -> None:
    with pytest.raises(KeyError, match=r"small|more"):
        build(SCHEMA, {name: [] for name in names})


@pytest.mark.parametrize("values", [[40_000], np.array([40_000]), pa.array([40_000]), pa.array([0.5])])
def test_build_refuses_values_that_the_type_can_not_hold(values: object) -> None:
    with pytest.raises(pa.ArrowInvalid):
        build(pa.schema([("small", pa.int16())]), {"small": values})


def test_build_puts_columns_in_the_schema_s_order_and_types() -> None:
    table = build(SCHEMA, {"names": [["a"]], "value": np.float32([0.5]), "small": pa.array([3]), "id": ["x"]})
    assert table.schema == SCHEMA
    assert table.to_pylist() == [{"id": "x", "small": 3, "value": 0.5, "names": ["a"]}]


class Watched(io.BytesIO):
    """A file that remembers which threads have read it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.readers: set[int] = set()

    def read(self, size: int | None = -1, /) -> bytes:
        self.readers.add(threading.get_ident())
        return super().read(size)


@pytest.mark.parametrize(
    "reading",
    [
        read,
        lambda file: find(file, "small", pa.array([7], pa.int16())),
        lambda file: opened(file).read_row_group(1, use_threads=False),
        lambda file: list(opened(file).iter_batches(1000, use_threads=False)),
    ],
    ids=["read", "find", "group", "batches"],
)
def test_only_the_calling_thread_reads(reading: Any) -> None:
    """Another that still holds the file when the interpreter ends aborts a command that has done its work."""
    file = Watched(BIG_BYTES)
    assert reading(file)
    assert file.readers == {threading.get_ident()}
