"""Ids in columns and in arrays are the same ids, however a column is cut."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from toolkit.data import ids

GIVEN = np.random.default_rng(1).integers(0, 256, (11, 16), np.uint8)
NAMES = [row.tobytes().hex() for row in GIVEN]


@pytest.mark.parametrize("piece", [3, 11, 1000])
def test_a_column_of_ids_is_that_of_python_strings(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(ids, "PIECE", piece)
    for count in (0, 1, 11):
        found = ids.column(GIVEN[:count])
        assert found.type == pa.string()
        assert found.to_pylist() == NAMES[:count]
        found.validate(full=True)


@pytest.mark.parametrize("piece", [3, 11, 1000])
def test_ids_come_back_from_a_column_in_any_chunks(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(ids, "PIECE", piece)
    text = pa.array(NAMES, pa.string())
    for column in (
        pa.chunked_array([text]),
        pa.chunked_array([text[:4], text[4:4], text[4:]]),
        pa.chunked_array([text.slice(2, 5)]),
        pa.chunked_array([], pa.string()),
    ):
        expected = [list(bytes.fromhex(name)) for name in column.to_pylist()]
        assert ids.array(column).tolist() == expected


@pytest.mark.parametrize(
    ("text", "says"), [("ab", "width"), ("zz" * 16, "Non-hex"), ("ab" * 17, "width"), (None, "Non-hex")]
)
def test_what_is_no_id_is_refused(text: str | None, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ids.array(pa.chunked_array([["ab" * 16, text]], pa.string()))


def test_uppercase_digits_are_the_same_id() -> None:
    assert ids.array(pa.chunked_array([[name.upper() for name in NAMES]])).tolist() == GIVEN.tolist()


def test_rows_of_a_record_array_are_ids_too() -> None:
    """As the answers of a join are: their ids do not lie side by side."""
    record = np.zeros(11, [("id", "u1", 16), ("size", "i8")])
    record["id"] = GIVEN
    assert ids.column(record["id"]).to_pylist() == NAMES


def test_words_are_equal_where_all_bytes_are() -> None:
    """Zeros at the end too, by which NumPy's strings of other lengths are not told apart."""
    rows = np.zeros((4, 16), np.uint8)
    rows[1, 15], rows[2, 0], rows[3, 0] = 1, 255, 255
    found = ids.words(rows)
    assert (found[:, None] == found).tolist() == [[bool((a == b).all()) for b in rows] for a in rows]
    assert np.sort(found[::-1]).tolist() == sorted(found.tolist())
