"""A small JPEG of an image from the crawl, made in the decoder's child process (guard.py).

Promise: what comes back was encoded here from pixels: no byte of the hostile file, its metadata among them, is in it.
"""

from __future__ import annotations

import io

from PIL import Image

from toolkit.image.decode import decode

SIDE = 160  # pixels of the longer side, at most
MOST = 12_000  # bytes, at most, of all images but pure noise: it bounds the size of a page of thumbnails
QUALITIES = (75, 50, 25)  # the first one whose file is small enough


def thumbnail(data: bytes, max_pixels: int) -> bytes:
    """Return the image as JPEG of at most SIDE x SIDE pixels; raises Fault."""
    image = Image.fromarray(decode(data, max_pixels))
    image.thumbnail((SIDE, SIDE))
    small = b""
    for quality in QUALITIES:
        small = _jpeg(image, quality)
        if len(small) <= MOST:
            break
    return small


def _jpeg(image: Image.Image, quality: int) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=quality)
    return sink.getvalue()
