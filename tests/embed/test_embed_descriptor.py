"""The descriptor finds copies and nothing else; every registered encoder keeps the Encoder's promises."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from toolkit.config.embed import Embed
from toolkit.config.image import Image
from toolkit.embed.descriptor import Descriptor
from toolkit.embed.encoder import ENCODERS, load
from toolkit.embed.prepare import prepare, shape
from toolkit.errors import UserError
from toolkit.guard import Fault
from toolkit.image.stage import guard

PIXELS = arrays(np.uint8, st.tuples(st.integers(0, 4), st.just(24), st.just(24), st.just(3)))


def plain(pixels: np.ndarray) -> np.ndarray:
    """One image's row as the module's first page says, in float64."""
    layout = cv2.cvtColor(pixels, cv2.COLOR_RGB2YCrCb).astype(np.float64)
    layout -= layout.mean(axis=(0, 1))
    return layout.ravel() / np.linalg.norm(layout)


@given(PIXELS)
def test_rows_are_unit_layouts_without_their_means(pixels):
    rows = Descriptor(Embed()).images(pixels)
    assert (rows.dtype, rows.shape) == (np.float16, (len(pixels), 1728))
    for image, row in zip(pixels, rows, strict=True):
        if (image == image[0, 0]).all():
            assert not row.any()
        elif row.any():
            assert np.abs(row - plain(image)).max() < 1e-3


@pytest.mark.parametrize("name", ENCODERS)
def test_a_row_depends_on_its_image_alone(name):
    encoder = load(Embed(encoder=name))
    pixels = np.random.default_rng(4).integers(0, 256, (7, *shape(encoder.resize)), np.uint8)
    whole = encoder.images(pixels)
    assert (whole.dtype, whole.shape) == (np.float16, (7, encoder.dim))
    assert np.array_equal(whole, np.concatenate([encoder.images(pixels[i : i + 1]) for i in range(7)]))
    assert encoder.images(pixels[:0]).shape == (0, encoder.dim)
    assert encoder.name == name
    assert encoder.weights


def test_without_a_text_tower_there_are_no_texts():
    encoder = load(Embed(encoder="descriptor"))
    assert not encoder.text
    with pytest.raises(UserError, match="encodes images only"):
        encoder.texts(["一只猫"])


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (24, 24), (25, 23), (480, 640)])
def test_images_of_any_size_are_prepared(size):
    rgb = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    small = prepare(rgb, "inner 24")
    assert (small.dtype, small.shape) == (np.uint8, shape("inner 24"))


def test_a_frame_and_a_strip_on_the_edge_leave_no_trace():
    rgb = np.random.default_rng(1).integers(0, 256, (200, 400, 3), np.uint8)
    framed = rgb.copy()
    framed[:10], framed[-10:], framed[:, :20], framed[:, -20:] = 0, 255, 0, 255
    assert np.array_equal(prepare(rgb, "inner 24"), prepare(framed, "inner 24"))


def test_threads_do_not_change_the_pixels():
    rgb = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (700, 900, 3), np.uint8), (9, 9), 3)
    one = prepare(rgb, "inner 24")
    cv2.setNumThreads(4)
    try:
        assert np.array_equal(prepare(rgb, "inner 24"), one)
    finally:
        cv2.setNumThreads(1)


def test_planted_copies_are_found_and_no_two_photographs_are_confused(shared):
    """Brute force over every pair of images that reaches the similarity join of the crawl, at cosine distance 0.1."""
    crawl = shared / "crawl"
    site = json.loads((crawl / "site.json").read_text())
    pairs = [json.loads(line) for line in (crawl / "truth.jsonl").read_text().splitlines()]
    living = [p for p in pairs if p["group"] and p["expect"] in ("keep", "drop:dedup")]
    groups = {site[p["url"]]["file"]: p["group"] for p in living}
    assert len(living) == 386
    files = sorted(groups)
    with guard(Image(), "toolkit.embed.prepare:prepared", resize=Descriptor.resize) as child:
        answers = list(child.map([(crawl / "site" / name).read_bytes() for name in files]))
    assert not any(isinstance(answer, Fault) for answer in answers)
    rows = Descriptor(Embed()).images(np.frombuffer(b"".join(answers), np.uint8).reshape(-1, 24, 24, 3))
    wide = rows.astype(np.float64)
    products = wide @ wide.T
    lengths = np.sqrt(np.diag(products))
    near = 1 - products / np.outer(lengths, lengths) < 0.1
    names = np.array([groups[name] for name in files])
    same = names[:, None] == names[None, :]
    assert same.sum() - len(files) == 2 * 84
    assert np.array_equal(near, same)
