"""What the image steps look at: four numbers of one decoded image, each exact enough to be the same everywhere.

Sums of integers are exact, and only the last division or root rounds: no number depends on threads, on vector width
or on the order of summation.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt

from toolkit.guard import Fault
from toolkit.image import decode
from toolkit.image.opencv import cv2

Grey = npt.NDArray[np.uint8]  # (height, width)

# OpenCV counts in float32, which is exact up to 2^24: larger images are counted in strips.
COUNTED = 1 << 24


class Measures(msgspec.Struct, array_like=True):
    """One row of the image table but for id and verdict; null is what could not be known."""

    format: str | None = None
    width: int | None = None
    height: int | None = None
    texture: float | None = None
    sharpness: float | None = None
    image_entropy: float | None = None
    fault: str | None = None


def measured(data: bytes, max_pixels: int) -> bytes:
    """Return `measure`'s result packed, which is how it leaves the decoder's child process."""
    return msgspec.msgpack.encode(measure(data, max_pixels))


def measure(data: bytes, max_pixels: int) -> Measures:
    """Decode once and measure all; a fault keeps what the header said (width and height as stored)."""
    row = Measures()
    try:
        head = decode.header(data)
        row.format, row.width, row.height = head.format, head.width, head.height
        decode.check(head, max_pixels)
        rgb = decode.pixels(data, head)
    except Fault as fault:
        row.fault = fault.word
        return row
    grey: Grey = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)
    row.height, row.width = grey.shape
    row.texture, row.sharpness, row.image_entropy = texture(grey), sharpness(grey), entropy(rgb)
    return row


def texture(grey: Grey) -> float:
    """Return the standard deviation of the grey image, in grey levels."""
    return math.sqrt(_variance(grey))


def sharpness(grey: Grey) -> float:
    """Return the variance of `cv2.Laplacian(grey, CV_64F, ksize=3)`.

    That kernel of nine integers, on 8 bits, fits 16 bits (at most 2,040), which is several times faster than CV_64F.
    """
    return _variance(np.asarray(cv2.Laplacian(grey, cv2.CV_16S, ksize=3), np.int16))


def _variance(values: npt.NDArray[np.uint8] | npt.NDArray[np.int16]) -> float:
    """Return the variance of integers with one rounding; both sums are exact (below 2^53) in OpenCV's doubles."""
    n = values.size
    total = round(cv2.sumElems(values)[0])
    squares = round(cv2.norm(values, cv2.NORM_L2SQR))
    return (n * squares - total * total) / (n * n)


def entropy(rgb: decode.RGB) -> float:
    """Return Pillow's `Image.entropy()` of the RGB image in bits: one histogram of 768 bins, channels side by side."""
    counts = histogram(rgb)
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum())


def histogram(rgb: decode.RGB) -> npt.NDArray[np.int64]:
    """Return Pillow's `Image.histogram()`: (768,) counts of red, green and blue."""
    height, width, _ = rgb.shape
    rows = max(COUNTED // width, 1)
    counts = np.zeros(768, np.int64)
    for top in range(0, height, rows):
        strip = [rgb[top : top + rows]]
        bins = [cv2.calcHist(strip, [channel], None, [256], [0, 256]) for channel in range(3)]
        counts += np.concatenate(bins).ravel().astype(np.int64)
    return counts
