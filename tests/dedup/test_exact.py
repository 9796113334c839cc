from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from toolkit.dedup.exact import cosines, dots, squares, steps

HALVES = st.floats(width=16, allow_nan=False, allow_infinity=False)


@given(hnp.arrays(np.float16, (2, 9), elements=HALVES))
def test_products_of_any_finite_rows_are_rounded_once(reference, rows):
    x, y = steps(rows)
    expected = reference.product(x.tolist(), y.tolist())
    assert dots(x[None], y[None]).tolist() == [expected]
    assert squares(rows).tolist() == [reference.product(v, v) for v in (x.tolist(), y.tolist())]


@pytest.mark.parametrize("dim", [8, 1024])
def test_rows_at_the_ends_of_float16(reference, dim):
    rows = np.full((4, dim), 65504, dtype=np.float16)
    rows[1, ::2] *= -1
    rows[2] = 2.0**-24
    rows[3, 0] = 2.0**-24
    x = steps(rows)
    for i in range(4):
        expected = [reference.product(x[i].tolist(), y.tolist()) for y in x]
        assert dots(np.repeat(x[i : i + 1], 4, axis=0), x).tolist() == expected


def test_sums_of_many_rows_keep_their_low_bits(reference):
    large = np.array([[2**61 + 1, -(2**61) + 1, 3]])
    small = np.array([[2**40 - 1, 2**40 - 1, -7]])
    assert dots(small, large).tolist() == [reference.product(small[0].tolist(), large[0].tolist())]


def test_rows_that_are_not_finite_have_no_square():
    rows = np.array([[1, 0], [np.nan, 0], [np.inf, 1], [0, 0]], dtype=np.float16)
    assert str(squares(rows).tolist()) == "[1.0, nan, nan, 0.0]"


def test_no_direction_is_cosine_zero():
    assert cosines(np.zeros(1), np.zeros(1), np.ones(1)).tolist() == [0.0]
