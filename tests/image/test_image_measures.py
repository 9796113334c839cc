"""The four measures against plain references: numpy, OpenCV in 64-bit floats, Pillow."""

from __future__ import annotations

import io

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from toolkit.image import measures
from toolkit.image.decode import decode
from toolkit.image.measures import Measures, entropy, histogram, measure, measured, sharpness, texture

GREY = arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)))
RGB = arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)))


@given(GREY)
def test_texture_is_the_standard_deviation(grey):
    assert texture(grey) == pytest.approx(grey.std(dtype=np.float64), rel=1e-12, abs=1e-6)


@given(arrays(np.uint8, st.tuples(st.integers(2, 12), st.integers(2, 12))))
def test_sharpness_is_the_variance_of_the_laplacian(grey):
    assert sharpness(grey) == pytest.approx(cv2.Laplacian(grey, cv2.CV_64F, ksize=3).var(), rel=1e-12, abs=1e-9)


@given(RGB)
def test_entropy_is_pillows(rgb):
    picture = Image.fromarray(rgb)
    assert histogram(rgb).tolist() == picture.histogram()
    assert np.float32(entropy(rgb)) == pytest.approx(np.float32(picture.entropy()), abs=1e-6)


def test_sums_are_exact_at_their_largest():
    """Every Laplacian of a checkerboard of single pixels is at its bound; 2^24 pixels and more are counted right."""
    board = np.zeros((4200, 4001), np.uint8)
    board[::2, ::2] = 255
    edges = cv2.Laplacian(board, cv2.CV_16S, ksize=3).astype(np.int64)
    n, total, squares = edges.size, int(edges.sum()), int((edges * edges).sum())
    assert sharpness(board) == (n * squares - total * total) / (n * n)
    grey = np.full((4200, 4001), 77, np.uint8)
    assert texture(grey) == 0
    assert histogram(cv2.merge([grey, grey, board]))[77] == grey.size


def test_strips_do_not_change_the_histogram(monkeypatch):
    rgb = np.random.default_rng(2).integers(0, 256, (50, 30, 3), np.uint8)
    whole = histogram(rgb)
    monkeypatch.setattr(measures, "COUNTED", 100)
    assert histogram(rgb).tolist() == whole.tolist()


def test_real_photographs_measure_as_the_plain_definitions_say(shared):
    for path in sorted((shared / "web-pairs").glob("*.jpg"))[:8]:
        row = measure(path.read_bytes(), 1 << 26)
        with Image.open(path) as picture:
            grey = cv2.cvtColor(np.asarray(picture.convert("RGB")), cv2.COLOR_RGB2GRAY)
            assert np.float32(row.image_entropy) == np.float32(picture.convert("RGB").entropy()), path.name
            assert (row.width, row.height) == picture.size
        assert row.sharpness == pytest.approx(cv2.Laplacian(grey, cv2.CV_64F, ksize=3).var(), rel=1e-12)
        assert row.texture == pytest.approx(grey.std(dtype=np.float64), rel=1e-12)


def test_measures_survive_the_way_out_of_the_child():
    sink = io.BytesIO()
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (20, 30, 3), np.uint8)).save(sink, "PNG")
    row = measure(sink.getvalue(), 600)
    assert msgspec.msgpack.decode(measured(sink.getvalue(), 600), type=Measures) == row
    assert row.sharpness == sharpness(cv2.cvtColor(decode(sink.getvalue(), 600), cv2.COLOR_RGB2GRAY))


def test_a_fault_keeps_what_the_header_said():
    sink = io.BytesIO()
    Image.new("RGB", (30, 20)).save(sink, "PNG")
    assert measure(sink.getvalue(), 599) == Measures(format="PNG", width=30, height=20, fault="pixels")
    assert measure(b"<html>", 599) == Measures(fault="format")
