from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.align.stage import STEPS, measure
from toolkit.config.config import check
from toolkit.config.embed import Align
from toolkit.data import features
from toolkit.data.ids import column
from toolkit.data.verdict import verdict
from toolkit.errors import UserError
from toolkit.run.plain import run_stage


def rows_at(cosine: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Image and text rows whose cosines are about as given."""
    image = np.tile([1.0, 0.0], (len(cosine), 1)).astype(np.float16)
    text = np.stack([cosine, np.sqrt(1 - np.square(cosine))], axis=1).astype(np.float16)
    return image, text


def write(path: Path, image: np.ndarray, text: np.ndarray | None) -> list[str]:
    ids = np.arange(len(image) * 16, dtype=np.uint8).reshape(-1, 16)
    sink = io.BytesIO()
    tower = None if text is None else [text]
    features.write(sink, ids=ids, image=[image], dim=image.shape[1], text=tower)
    path.write_bytes(sink.getvalue())
    return column(ids).to_pylist()


def config(align: dict[str, list[float]]):
    return check({"input": {"kind": "table", "paths": ["-"]}, "align": align}, "test")


def test_distance_is_that_of_unit_vectors_whatever_the_length():
    image, text = rows_at([1.0, 0.6, 0.0, -1.0])
    found = measure(image * np.float16(40), text)
    assert found["cosine"].tolist() == pytest.approx([1, 0.6, 0, -1], abs=1e-3)
    assert found["l2"].tolist() == pytest.approx([0, 0.8**0.5, 2**0.5, 2], abs=1e-3)


@given(st.integers(0, 2**32))
def test_cosine_is_that_of_the_stored_values(seed):
    x, y = np.random.default_rng(seed).standard_normal((2, 5, 64)).astype(np.float16)
    a, b = x.astype(np.longdouble), y.astype(np.longdouble)
    expected = (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))
    assert np.abs(measure(x, y)["cosine"] - expected).max() < 1e-15


def test_parallel_rows_are_at_distance_zero():
    x = np.random.default_rng(0).standard_normal((200, 96)).astype(np.float16)
    assert measure(x, x)["l2"].tolist() == [0.0] * 200


def test_rows_without_a_direction_have_no_cosine_and_are_outside_every_band():
    image = np.ones((4, 2), dtype=np.float16)
    text = np.array([[1, 1], [0, 0], [np.nan, 1], [np.inf, 1]], dtype=np.float16)
    found = measure(image, text)
    assert np.isnan(found["cosine"]).tolist() == np.isnan(found["l2"]).tolist() == [False, True, True, True]
    assert verdict(STEPS, pa.table(found), Align(cosine=(-1, 1))).null_count == 1


@pytest.mark.parametrize("unit", ["l2", "cosine"])
def test_both_ends_belong_to_the_band(unit):
    table = pa.table({unit: [0.49, 0.5, 0.75, 1.0, 1.01]})
    found = verdict(STEPS, table, Align(**{unit: (0.5, 1.0)})).to_pylist()
    assert found == ["align.band", None, None, None, "align.band"]


def test_the_papers_band_in_both_units_keeps_the_same_pairs():
    table = pa.table(measure(*rows_at(np.linspace(0, 0.8, 200).tolist())))
    by_l2 = verdict(STEPS, table, Align(l2=(1.06, 1.24)))
    by_cosine = verdict(STEPS, table, Align(cosine=(0.2312, 0.4382)))
    assert by_l2 == by_cosine
    assert 40 < by_l2.null_count < 60


def test_the_stage_writes_one_row_a_pair(tmp_path):
    ids = write(tmp_path / "in.h5", *rows_at([0.9, 0.3, 0.1]))
    run_stage("align", [tmp_path / "in.h5"], tmp_path / "out.parquet", config({"cosine": [0.2, 0.4]}))
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["id"].to_pylist() == ids
    assert table["dropped"].to_pylist() == ["align.band", None, "align.band"]
    assert table["cosine"].to_pylist() == pytest.approx([0.9, 0.3, 0.1], abs=1e-3)


def test_features_without_text_are_named(tmp_path):
    write(tmp_path / "in.h5", rows_at([0.9])[0], None)
    with pytest.raises(UserError, match=r"no /text.*align: null"):
        run_stage("align", [tmp_path / "in.h5"], tmp_path / "out.parquet", config({"l2": [1.06, 1.24]}))


@pytest.mark.parametrize("align", [{}, {"l2": [1, 2], "cosine": [0, 1]}, {"l2": [1.24, 1.06]}])
def test_bands_that_mean_nothing_are_refused(align):
    with pytest.raises(UserError, match="align"):
        config(align)
