"""The demo's pictures pass the image steps, differ from each other, and are spoiled in just the way they should be."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from toolkit.demo.pictures import FILES, draw
from toolkit.demo.scenes import SUBJECTS, scene

Pixels = npt.NDArray[np.uint8]


def opened(data: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def file(kind: str, number: int, seed: int = 1) -> bytes:
    return FILES[kind][2](scene(seed, number))


def sharpness(pixels: Pixels) -> float:
    return float(cv2.Laplacian(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.CV_64F, ksize=3).var())


def texture(pixels: Pixels) -> float:
    return float(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).std())


def entropy(pixels: Pixels) -> float:
    return Image.fromarray(pixels).entropy()


def sides(pixels: Pixels) -> tuple[int, int]:
    return min(pixels.shape[:2]), max(pixels.shape[:2])


def layout(pixels: Pixels) -> npt.NDArray[np.float64]:
    """The weight-free descriptor, written plainly: 24 x 24 x 3, YCrCb, means removed, unit length."""
    small = cv2.resize(
        cv2.cvtColor(pixels, cv2.COLOR_RGB2YCrCb).astype(np.float64), (24, 24), interpolation=cv2.INTER_AREA
    )
    flat = (small - small.mean((0, 1))).ravel()
    return flat / np.linalg.norm(flat)


@pytest.mark.parametrize("kind", [kind for kind in FILES if kind == "original" or kind.startswith("dup_")])
def test_pictures_to_be_kept_pass_every_image_step_with_room_to_spare(kind: str) -> None:
    for number in range(40 if kind == "original" else 8):
        pixels = opened(file(kind, number))
        short, long = sides(pixels)
        assert short > 110
        assert long < 2.5 * short
        assert texture(pixels) > 10
        assert sharpness(pixels) > 1500
        assert entropy(pixels) > 5


def test_distinct_pictures_are_far_apart() -> None:
    rows = np.array([layout(np.asarray(draw(scene(1, number)))) for number in range(300)])
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -1)
    assert 1 - cosines.max() > 0.3


@pytest.mark.parametrize("kind", [kind for kind in FILES if kind.startswith("dup_")])
def test_copies_are_near_their_original(kind: str) -> None:
    for number in range(12):
        assert file(kind, number) != file("original", number)
        distance = 1 - layout(opened(file(kind, number))) @ layout(opened(file("original", number)))
        assert distance < 0.06


def test_spoiled_pictures_fail_their_step_and_none_before_it() -> None:
    for number in range(12):
        tiny, banner = opened(file("tiny", number)), opened(file("aspect", number))
        assert sides(tiny)[0] <= 100
        assert sides(tiny)[1] < 3 * sides(tiny)[0]
        assert sides(banner)[0] > 100
        assert sides(banner)[1] > 3 * sides(banner)[0]
        assert texture(opened(file("flat", number))) < 1
        blurred = opened(file("blurred", number))
        assert texture(blurred) > 4
        assert sharpness(blurred) < 500
        poor = opened(file("low_entropy", number))
        assert texture(poor) > 4
        assert sharpness(poor) > 1500
        assert entropy(poor) < 2.8


def test_damaged_files_can_not_be_decoded() -> None:
    for number in range(4):
        with pytest.raises(OSError, match="truncated"):
            opened(file("truncated", number))
        bomb = file("bomb", number)
        assert len(bomb) < 200
        with pytest.raises(Image.DecompressionBombError):
            Image.open(io.BytesIO(bomb))


def test_all_subjects_appear_early() -> None:
    assert {scene(1, number).subject.name.zh for number in range(120)} == {s.name.zh for s in SUBJECTS}


def test_shapes_are_well_formed() -> None:
    points: dict[str, Any] = {"rect": {4}, "oval": {4}, "pie": {6}, "line": {4}, "poly": set(range(6, 40, 2))}
    for subject in SUBJECTS:
        for shape in subject.shapes.split(";"):
            verb, slot, *numbers = shape.split()
            assert slot in "cdlwkbygrs"
            assert sum(len(n.split(",")) for n in numbers) in points[verb]
