"""Bytes to RGB pixels, as a browser shows them: one function, for a child process (see toolkit/guard.py).

Promises: only JPEG, PNG, WebP and the first frame of GIF are read, told by their first bytes, never by a name; the
header's size is checked before a pixel is decoded; a file cut anywhere in its pixels is a `Fault`, never half grey;
the pixels are a function of the bytes alone. (Not noticed: a PNG whose encoder itself ended the zlib stream early.)

JPEG goes to libjpeg-turbo by simplejpeg, in strict mode: its pixels equal Pillow's and OpenCV's bit by bit, it is the
fastest of the three, and the only one that refuses a file cut in the middle and ended with a proper end marker (the
other two fill the rest with grey and say nothing). The other formats go to Pillow.

As shown means: EXIF orientation applied; alpha composited on white; palettes resolved; CMYK converted as Pillow does
(Adobe's inverted inks, no colour profile); of 16 bits the higher 8. Colour profiles are not applied.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import GifImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from toolkit.data.formats import FORMATS, sniff
from toolkit.guard import Fault

RGB = npt.NDArray[np.uint8]  # (height, width, 3)
ORIENTATION = 0x0112  # EXIF tag

# Pillow's classes are called directly: Image.open would try other formats (an MPO for a JPEG) and its own size limit.
PILLOW: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
}


@dataclass(frozen=True, slots=True)
class Header:
    """What the header says: format, width and height in pixels as stored (before any rotation)."""

    format: str
    width: int
    height: int


def decode(data: bytes, max_pixels: int) -> RGB:
    """Return the image as contiguous RGB (height, width, 3) uint8, as shown; raises Fault."""
    head = header(data)
    check(head, max_pixels)
    return pixels(data, head)


def header(data: bytes) -> Header:
    """Read format and size without decoding a pixel; raises Fault "format" or "header"."""
    ending = sniff(data)
    if ending is None:
        raise Fault("format")
    name = FORMATS[ending]
    try:
        width, height = SIZES[name](data)
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit for GIF, above any sensible one of ours
        raise Fault("pixels") from error
    except Exception as error:  # decoders raise whatever they like on hostile headers
        raise Fault("header") from error
    return Header(name, width, height)


def check(head: Header, max_pixels: int) -> None:
    """Raise Fault "pixels" where the header names more pixels than allowed, or none."""
    if not 0 < head.width * head.height <= max_pixels:
        raise Fault("pixels")


def pixels(data: bytes, head: Header) -> RGB:
    """Decode an image whose header was checked; raises Fault "corrupt" or "header"."""
    try:
        rgb, exif = _jpeg(data) if head.format == "JPEG" else _pillow(data, head)
    except (Fault, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever they like on hostile bytes
        raise Fault("corrupt") from error
    if rgb.shape != (head.height, head.width, 3):
        raise Fault("header")
    return turn(rgb, orientation(exif))


def orientation(exif: bytes | None) -> int:
    """Return EXIF's orientation, 1 to 8; 1 (as stored) where there is none or it can not be read."""
    if not exif:
        return 1
    try:
        tags = Image.Exif()
        tags.load(exif)
        value = tags.get(ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:  # a browser shows an image whose EXIF is broken
        return 1
    return value if value in range(1, 9) else 1


def turn(rgb: RGB, orientation: int) -> RGB:
    """Return stored pixels as shown under an EXIF orientation of 1 to 8."""
    if orientation >= 5:  # stored by columns
        rgb = rgb.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    return np.ascontiguousarray(rgb)


def _jpeg_size(data: bytes) -> tuple[int, int]:
    height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    return width, height


def _png_size(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def _webp_size(data: bytes) -> tuple[int, int]:
    """Read one of the three kinds of first chunk; libwebp itself takes memory for all pixels when it opens a file."""
    kind = data[12:16]
    if kind == b"VP8X":
        sizes = data[24:30]
        return _exact(sizes[:3], 3) + 1, _exact(sizes[3:], 3) + 1
    if kind == b"VP8L":
        bits = _exact(data[21:25], 4)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return _exact(data[26:28], 2) & 0x3FFF, _exact(data[28:30], 2) & 0x3FFF
    raise ValueError(kind)


def _exact(data: bytes, size: int) -> int:
    if len(data) != size:
        raise EOFError
    return int.from_bytes(data, "little")


def _gif_size(data: bytes) -> tuple[int, int]:
    """Ask Pillow, which adds the first frame's extent: it may exceed the screen that the header names."""
    return GifImagePlugin.GifImageFile(io.BytesIO(data)).size


SIZES: dict[str, Callable[[bytes], tuple[int, int]]] = {
    "JPEG": _jpeg_size,
    "PNG": _png_size,
    "WEBP": _webp_size,
    "GIF": _gif_size,
}


def _jpeg(data: bytes) -> tuple[RGB, bytes | None]:
    _, _, space, _ = simplejpeg.decode_jpeg_header(data)
    if space in ("CMYK", "YCCK"):
        inks = 255 - simplejpeg.decode_jpeg(data, "CMYK", strict=True)
        picture = Image.frombytes("CMYK", (inks.shape[1], inks.shape[0]), inks.tobytes())
        rgb = np.asarray(picture.convert("RGB"))
    else:
        rgb = simplejpeg.decode_jpeg(data, "RGB", strict=True)
    return rgb, _jpeg_exif(data)


def _jpeg_exif(data: bytes) -> bytes | None:
    """Return the EXIF block; most photographs of the web have none, so its mark is searched first."""
    if b"Exif\0\0" not in data:
        return None
    try:
        return JpegImagePlugin.JpegImageFile(io.BytesIO(data)).info.get("exif")
    except MemoryError:
        raise
    except Exception:  # the pixels are there; only the EXIF can not be found
        return None


def _pillow(data: bytes, head: Header) -> tuple[RGB, bytes | None]:
    with PILLOW[head.format](io.BytesIO(data)) as image:
        if image.size != (head.width, head.height):
            raise Fault("header")
        image.load()
        return _flat(image), image.info.get("exif")


def _flat(image: Image.Image) -> RGB:
    """Return a loaded picture of any mode as RGB, transparent parts on white."""
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip it to white
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        above: Any = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
    return np.asarray(image.convert("RGB"))
