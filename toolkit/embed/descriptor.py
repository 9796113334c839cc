"""An encoder without weights: the layout of colours, which finds copies of a picture and nothing more.

24 x 24 cells of YCrCb over the middle of the image (see prepare.py), each channel's mean removed, unit length.
Recompressed, resized, brightened, marked or slightly cropped copies lie within cosine distance 0.1 of the original;
different photographs do not (tested on real ones).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from toolkit.config.embed import Embed
from toolkit.embed.encoder import Features
from toolkit.errors import UserError
from toolkit.image.opencv import cv2

SIDE = 24
CELLS = SIDE * SIDE


class Descriptor:
    """The colour layout, 1,728 numbers an image."""

    name = "descriptor"
    dim = CELLS * 3
    resize = f"inner {SIDE}"
    weights = "none"
    text = False

    def __init__(self, section: Embed) -> None:
        pass

    def images(self, pixels: npt.NDArray[np.uint8]) -> Features:
        """Encode (n, 24, 24, 3) uint8 RGB; an image of one colour has no layout and is zeros.

        All is exact in integers (576 times the distance to the mean) up to the one division, so the rows are the same
        on every machine.
        """
        if not len(pixels):
            return np.zeros((0, self.dim), np.float16)
        colours = cv2.cvtColor(pixels.reshape(-1, SIDE, 3), cv2.COLOR_RGB2YCrCb)
        cells = colours.reshape(len(pixels), CELLS, 3).astype(np.int64)
        layout = (CELLS * cells - cells.sum(axis=1, keepdims=True)).reshape(len(pixels), self.dim)
        length = np.sqrt((layout * layout).sum(axis=1, keepdims=True).astype(np.float64))
        rows: Features = (layout / np.where(length == 0, 1, length)).astype(np.float16)
        return rows

    def texts(self, captions: Sequence[str]) -> Features:
        """There is no text tower."""
        raise UserError("The encoder descriptor encodes images only; choose one with a text tower.")
