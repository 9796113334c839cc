"""Verdicts: null, or the first step in recipe order that rejects the row."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from toolkit.data.verdict import alive, values, verdict

BOOLS = npt.NDArray[np.bool_]


def small(table: pa.Table, section: Any) -> BOOLS:
    return values(table, "n") < section.low


def large(table: pa.Table, section: Any) -> BOOLS:
    return values(table, "n") > section.high


STEPS = {"first.small": small, "second.large": large}


def plain(number: int | None, low: int, high: int) -> str | None:
    if number is None:
        return None
    if number < low:
        return "first.small"
    return "second.large" if number > high else None


@given(st.lists(st.none() | st.integers(-9, 9)), st.integers(-9, 9), st.integers(-9, 9))
def test_equals_one_row_after_the_other(numbers: list[int | None], low: int, high: int) -> None:
    table = pa.table({"n": pa.array(numbers, pa.int32())})
    section = SimpleNamespace(low=low, high=high)
    assert verdict(STEPS, table, section).to_pylist() == [plain(n, low, high) for n in numbers]


def test_the_order_of_the_steps_decides_who_is_named() -> None:
    table = pa.table({"n": [5]})
    section = SimpleNamespace(low=9, high=1)
    assert verdict(STEPS, table, section).to_pylist() == ["first.small"]
    assert verdict(dict(reversed(STEPS.items())), table, section).to_pylist() == ["second.large"]


def test_without_steps_and_without_rows_nothing_is_dropped() -> None:
    assert verdict({}, pa.table({"n": [1, 2]}), None).equals(pa.array([None, None], pa.string()))
    empty = verdict(STEPS, pa.table({"n": pa.array([], pa.int32())}), SimpleNamespace(low=0, high=0))
    assert empty.equals(pa.array([], pa.string()))


def test_alive_gives_the_rows_without_a_reason() -> None:
    chunks = pa.chunked_array([["a", None], [], [None, "b", None]], pa.string())
    assert alive(pa.table({"dropped": chunks})).tolist() == [1, 2, 4]


def test_alive_of_a_table_without_rows_or_chunks_is_empty() -> None:
    assert alive(pa.schema([("dropped", pa.string())]).empty_table()).tolist() == []
    assert alive(pa.table({"dropped": pa.chunked_array([], pa.string())})).tolist() == []


def test_values_of_every_numeric_type_are_float64() -> None:
    for kind in (pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.bool_()):
        column = values(pa.table({"n": pa.array([1, None, 0]).cast(kind)}), "n")
        assert column.dtype == np.float64
        assert np.array_equal(column, [1, np.nan, 0], equal_nan=True)


def test_values_takes_another_number_for_nulls_and_keeps_chunks_in_order() -> None:
    table = pa.table({"n": pa.chunked_array([[1.5, None], [None, 2.5]], pa.float64())})
    assert values(table, "n", missing=-1).tolist() == [1.5, -1, -1, 2.5]
    assert values(table.schema.empty_table(), "n").tolist() == []
