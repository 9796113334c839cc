"""What an encoder is, and the table of those there are. A new one is one class and one line here.

Promise: an encoder's rows depend on each image and text alone, never on what else is in the block.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from toolkit.config.embed import Embed

Features = npt.NDArray[np.float16]  # (n, dim)


class Encoder(Protocol):
    """Images, and texts where it has a text tower, to rows whose cosine says how similar they are."""

    @property
    def name(self) -> str:
        """Return its name in the table."""

    @property
    def dim(self) -> int:
        """Return the length of a row."""

    @property
    def resize(self) -> str:
        """Return how images are made small, in the words of embed/prepare.py."""

    @property
    def weights(self) -> str:
        """Return a digest of the weights, or "none"."""

    @property
    def text(self) -> bool:
        """Return whether there is a text tower."""

    def images(self, pixels: npt.NDArray[np.uint8]) -> Features:
        """Encode (n, side, side, 3) uint8 RGB; a row that can not be given a direction is zeros."""

    def texts(self, captions: Sequence[str]) -> Features:
        """Encode texts into the space of the images; raises UserError without a text tower."""


# Name in the configuration -> "module:class", imported when chosen; the class is called with the section `embed`.
ENCODERS = {
    "descriptor": "toolkit.embed.descriptor:Descriptor",
}


def load(section: Embed) -> Encoder:
    """Return the encoder that the section names."""
    module, _, name = ENCODERS[section.encoder].partition(":")
    encoder: Encoder = getattr(importlib.import_module(module), name)(section)
    return encoder
