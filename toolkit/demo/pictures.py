"""The demo's pictures, drawn by code: a scene on a watercolour wash with paper grain, and the ways to spoil one.

Promise: the same scene gives the same bytes with the same Pillow; only integer arithmetic and Pillow's own fixed-point
resampling decide a pixel. The wash, not the subject, keeps two pictures apart: at the size of a colour layout it is
a grid of some 90 independent numbers, while subjects, places and times repeat after a few thousand pictures.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache, lru_cache

import numpy as np
from PIL import Image, ImageDraw

from toolkit.demo.dice import Dice, stream
from toolkit.demo.scenes import INKS, STAR, TIMES, Colour, Scene, Subject

_GRAIN = 640  # side of the grain tile, larger than any picture
_WASH = 76  # most that the wash moves a channel, in levels
_QUALITY = 88


def jpeg(image: Image.Image, quality: int = _QUALITY) -> bytes:
    """Return the image as a JPEG file."""
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=quality)
    return sink.getvalue()


def png(image: Image.Image) -> bytes:
    """Return the image as a PNG file."""
    sink = io.BytesIO()
    image.save(sink, "PNG", compress_level=6)
    return sink.getvalue()


@lru_cache(maxsize=128)
def draw(scene: Scene) -> Image.Image:
    """Return the picture of a scene, RGB; the caller must not draw on it."""
    image = _backdrop(scene)
    dice = Dice(scene.key, "subjects")
    _companion(image, scene, dice)
    _crowd(image, scene, dice)
    return _grained(image, dice.below(200), dice.below(200))


def _shift(colour: Colour, by: Colour) -> Colour:
    red, green, blue = (min(255, max(0, a + b)) for a, b in zip(colour, by, strict=True))
    return red, green, blue


def _mix(a: Colour, b: Colour, percent: int) -> Colour:
    red, green, blue = ((x * (100 - percent) + y * percent) // 100 for x, y in zip(a, b, strict=True))
    return red, green, blue


def _wash(size: tuple[int, int], base: Colour, dice: Dice, columns: int, rows: int) -> Image.Image:
    """Return the base colour with soft stains: a small grid of random colours, enlarged."""
    cells = bytearray()
    for _ in range(columns * rows):
        light = dice.between(-_WASH, _WASH)
        stain = (
            light + dice.between(-_WASH, _WASH),
            light * 3 // 4 + dice.between(-_WASH, _WASH) // 2,
            light + dice.between(-_WASH, _WASH),
        )
        cells += bytes(_shift(base, stain))
    return Image.frombytes("RGB", (columns, rows), bytes(cells)).resize(size, Image.Resampling.BICUBIC)


def _backdrop(scene: Scene) -> Image.Image:
    """Return sky and ground with the details of the place."""
    dice = Dice(scene.key, "backdrop")
    size = (scene.width, scene.height)
    _, on_sky, on_ground = TIMES[scene.time]
    image = _wash(size, _shift(scene.place.sky, on_sky), dice, 6, 5)
    horizon = scene.height * dice.between(45, 72) // 100
    ground = _wash(size, _shift(scene.place.ground, on_ground), dice, 6, 5)
    ink = ImageDraw.Draw(image)
    _far(ink, scene, horizon, dice)
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).polygon([*_ridge(scene, horizon, dice), *_floor(scene)], fill=255)
    image.paste(ground, mask=mask)
    _near(ink, scene, horizon, dice)
    return image


def _ridge(scene: Scene, level: int, dice: Dice, rough: int = 4) -> list[tuple[int, int]]:
    """Return points from left to right around a level, `rough` percent of the height up and down."""
    swing = max(1, scene.height * rough // 100)
    return [(scene.width * i // 6, level + dice.between(-swing, swing)) for i in range(7)]


def _floor(scene: Scene) -> list[tuple[int, int]]:
    return [(scene.width, scene.height), (0, scene.height)]


def _far(ink: ImageDraw.ImageDraw, scene: Scene, horizon: int, dice: Dice) -> None:
    """Draw what stands behind the horizon: mountains, towers, pines; stars at night."""
    base = _shift(scene.place.ground, TIMES[scene.time][2])
    haze = _mix(base, _shift(scene.place.sky, TIMES[scene.time][1]), 45)
    if scene.time == 3:
        for _ in range(40):
            x, y = dice.below(scene.width), dice.below(horizon)
            ink.ellipse((x, y, x + 1, y + 1), fill=INKS["s"])
    if scene.place.detail in ("mountains", "ripples", "dunes"):
        for depth in (26, 15):
            ridge = _ridge(scene, horizon - scene.height * depth // 100, dice, 12)
            ink.polygon([*ridge, *_floor(scene)], fill=_mix(haze, base, 60 - 2 * depth))
    elif scene.place.detail == "skyline":
        _skyline(ink, scene, horizon, haze, dice)
    elif scene.place.detail == "pines":
        for _ in range(16):
            x, tall = dice.below(scene.width), scene.height * dice.between(16, 36) // 100
            foot, half = horizon + scene.height // 20, tall // 4
            shade = _mix(haze, (20, 60, 40), dice.between(20, 70))
            ink.polygon([(x, foot - tall), (x + half, foot), (x - half, foot)], fill=shade)


def _skyline(ink: ImageDraw.ImageDraw, scene: Scene, horizon: int, haze: Colour, dice: Dice) -> None:
    x = -dice.below(20)
    while x < scene.width:
        wide, tall = dice.between(18, 40), scene.height * dice.between(14, 42) // 100
        shade = _mix(haze, (60, 60, 90), dice.between(10, 60))
        ink.rectangle((x, horizon - tall, x + wide, scene.height), fill=shade)
        for row in range(horizon - tall + 5, horizon - 6, 9):
            for column in range(x + 4, x + wide - 4, 8):
                lit = INKS["y"] if dice.below(3) == 0 else _mix(shade, INKS["w"], 25)
                ink.rectangle((column, row, column + 3, row + 4), fill=lit)
        x += wide + dice.below(6)


def _near(ink: ImageDraw.ImageDraw, scene: Scene, horizon: int, dice: Dice) -> None:
    """Draw what lies on the ground: waves, grass, furrows, blossoms, snow."""
    base = _shift(scene.place.ground, TIMES[scene.time][2])
    light, dark = _mix(base, INKS["w"], 40), _mix(base, INKS["k"], 35)
    kind, width, height = scene.place.detail, scene.width, scene.height
    if kind == "furrows":
        for i in range(-8, 17):
            ink.line((width // 2 + (i - 4) * 8, horizon, (i - 4) * width // 6 + width // 2, height), fill=dark, width=2)
    for _ in range(90):
        x, y = dice.below(width), dice.between(horizon, height)
        reach = 3 + (y - horizon) * 12 // max(1, height - horizon)
        if kind in ("waves", "ripples"):
            ink.arc((x, y, x + 2 * reach + 6, y + reach), 180, 360, fill=light, width=2)
        elif kind in ("grass", "pines", "mountains"):
            ink.line((x, y, x + dice.between(-3, 3), y - reach), fill=dice.pick([light, dark]), width=1)
        elif kind == "blossoms":
            petal = dice.pick([INKS["r"], INKS["y"], INKS["w"], (236, 136, 190), (150, 110, 214)])
            ink.ellipse((x, y, x + reach // 2 + 2, y + reach // 2 + 2), fill=petal)
        elif kind == "snow":
            y = dice.below(height)
            ink.ellipse((x, y, x + 2, y + 2), fill=INKS["w"])
        else:
            ink.line((x, y, x + reach, y), fill=dice.pick([light, dark]), width=1)


@cache
def _shapes(subject: Subject) -> list[tuple[str, str, list[int]]]:
    """Return the subject's shapes: verb, colour letter, numbers."""
    parts = (shape.split() for shape in subject.shapes.split(";"))
    return [(verb, slot, [int(n) for point in points for n in point.split(",")]) for verb, slot, *points in parts]


def _stamp(subject: Subject, colour: Colour, side: int) -> Image.Image:
    """Return the subject on a clear square of `side` pixels, drawn at twice that size for smooth edges."""
    tile = Image.new("RGBA", (2 * side, 2 * side), (*_mix(colour, INKS["k"], 30), 0))
    ink = ImageDraw.Draw(tile)
    slots = INKS | {"c": colour, "d": _mix(colour, INKS["k"], 34), "l": _mix(colour, INKS["w"], 46)}
    for verb, slot, numbers in _shapes(subject):
        at = [n * 2 * side // 100 for n in numbers[:4]] if verb == "pie" else [n * 2 * side // 100 for n in numbers]
        fill = (*slots[slot], 255)
        if verb == "rect":
            ink.rectangle(at, fill=fill)
        elif verb == "oval":
            ink.ellipse(at, fill=fill)
        elif verb == "pie":
            ink.pieslice(at, numbers[4], numbers[5], fill=fill)
        elif verb == "line":
            ink.line(at, fill=fill, width=max(2, side // 18))
        else:
            ink.polygon(list(zip(at[::2], at[1::2], strict=True)), fill=fill)
    return tile.reduce(2)


def _place(image: Image.Image, subject: Subject, colour: Colour, side: int, centre: tuple[int, int]) -> None:
    tile = _stamp(subject, colour, side)
    image.paste(tile, (centre[0] - side // 2, centre[1] - side // 2), tile)


def _companion(image: Image.Image, scene: Scene, dice: Dice) -> None:
    """Draw the second subject, smaller, on the side that the first leaves free."""
    free = dice.pick([side for side in range(3) if side != scene.side])
    side = min(scene.width, scene.height) * dice.between(24, 32) // 100
    x = scene.width * (2 * free + 1) // 6 + dice.between(-8, 8)
    y = scene.height * dice.between(18, 76) // 100
    _place(image, scene.other, scene.other_paint.rgb, side, (x, y))


def _crowd(image: Image.Image, scene: Scene, dice: Dice) -> None:
    """Draw the subject `count` times around its side of the picture."""
    least = min(scene.width, scene.height)
    side = least * {1: dice.between(46, 60), 2: dice.between(34, 42), 3: dice.between(27, 33)}[scene.count] // 100
    middle = scene.width * (5 + 5 * scene.side) // 20 + dice.between(-10, 10)
    for i in range(scene.count):
        x = middle + (2 * i - scene.count + 1) * side * 52 // 100
        y = scene.height * dice.between(42, 68) // 100
        _place(image, scene.subject, scene.paint.rgb, side, (min(max(x, side // 3), scene.width - side // 3), y))


@cache
def _grain() -> np.ndarray[tuple[int, int], np.dtype[np.int16]]:
    """Return grain of about 6 levels: the sum of two uniform bytes, cut down."""
    raw = np.frombuffer(stream(2 * _GRAIN * _GRAIN, "grain"), np.uint8).astype(np.int16)
    grain = (raw[: _GRAIN * _GRAIN] + raw[_GRAIN * _GRAIN :] - 255) // 17
    return grain.reshape(_GRAIN, _GRAIN)


def _grained(image: Image.Image, left: int, top: int) -> Image.Image:
    """Return the image on rough paper: the same grain in all channels."""
    pixels = np.asarray(image).astype(np.int16)
    height, width = pixels.shape[:2]
    pixels += _grain()[top : top + height, left : left + width, None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _varied(low: int, high: int) -> Callable[[Scene], int]:
    """Return a function that gives each scene its own whole number from low to high."""
    return lambda scene: Dice(scene.key, "vary", low, high).between(low, high)


_PERCENT_RESIZED, _PERCENT_BRIGHT, _PERCENT_CROPPED = _varied(60, 140), _varied(84, 118), _varied(94, 97)
_QUALITY_LOW, _SIDE_TINY, _PERCENT_CUT = _varied(40, 60), _varied(48, 100), _varied(30, 70)


def _resized(scene: Scene) -> bytes:
    percent = _PERCENT_RESIZED(scene)
    size = (max(140, scene.width * percent // 100), max(120, scene.height * percent // 100))
    return jpeg(draw(scene).resize(size, Image.Resampling.BICUBIC))


def _brightened(scene: Scene) -> bytes:
    percent = _PERCENT_BRIGHT(scene)
    return jpeg(draw(scene).point([min(255, level * percent // 100) for level in range(256)] * 3))


def _cropped(scene: Scene) -> bytes:
    image, percent = draw(scene), _PERCENT_CROPPED(scene)
    left, top = image.width * (100 - percent) // 200, image.height * (100 - percent) // 200
    return jpeg(image.crop((left, top, image.width - left, image.height - top)))


def _watermarked(scene: Scene) -> bytes:
    """Return the picture with a white star and bars, as a site's logo, in its lower right corner."""
    image = draw(scene).copy()
    side = min(image.size) // 7
    left, top = image.width - 3 * side, image.height - side - 6
    ink = ImageDraw.Draw(image)
    for row, wide in ((4, 5), (7, 3)):
        x, y = left + side + 4, top + side * row // 12
        ink.rectangle((x, y, x + side * wide // 4, y + side // 6), fill=INKS["w"])
    _place(image, STAR, INKS["w"], side, (left + side // 2, top + side // 2))
    return jpeg(image)


def _truncated(scene: Scene) -> bytes:
    data = jpeg(draw(scene))
    return data[: len(data) * _PERCENT_CUT(scene) // 100]


def _bomb(scene: Scene) -> bytes:
    """Return a PNG of some 150 bytes that says it has 30,000 x 30,000 pixels."""
    side = 30_000 + Dice(scene.key, "bomb").below(100)
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", _STORED), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


# An empty zlib stream in one stored block, so that no compressor has a say in the bytes.
_STORED = b"\x78\x01\x01\x00\x00\xff\xff\x00\x00\x00\x01"


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _tiny(scene: Scene) -> bytes:
    """Return a thumbnail whose shorter side has 48 to 100 pixels; 100 is not enough either."""
    side = _SIDE_TINY(scene)
    return jpeg(draw(scene).resize((side * 5 // 4, side), Image.Resampling.BICUBIC))


def _banner(scene: Scene) -> bytes:
    """Return the picture pulled out to a banner or a pillar of more than 3:1, its shorter side above 100 pixels."""
    short = 104 + Dice(scene.key, "banner").below(30)
    long = short * 7 // 2
    size = (long, short) if Dice(scene.key, "way").below(2) else (short, long)
    return jpeg(draw(scene).resize(size, Image.Resampling.BICUBIC))


def _flat(scene: Scene) -> bytes:
    return jpeg(Image.new("RGB", (scene.width, scene.height), scene.paint.rgb))


def _blurred(scene: Scene) -> bytes:
    image = draw(scene)
    return jpeg(image.reduce(12).resize(image.size, Image.Resampling.BICUBIC))


def _two_inks(scene: Scene) -> bytes:
    """Return a sprinkle of two colours: sharp and full of contrast, but 2.6 bits of entropy."""
    dots = np.frombuffer(stream(scene.width * scene.height, scene.key, "dots"), np.uint8) & 1
    inks = np.array([INKS["s"], _mix(scene.paint.rgb, INKS["k"], 60)], np.uint8)
    return png(Image.fromarray(inks[dots].reshape(scene.height, scene.width, 3)))


JPEG, PNG = "image/jpeg", "image/png"

# Every file that the demo's server can send: its ending, its Content-Type, its bytes for a scene.
FILES: dict[str, tuple[str, str, Callable[[Scene], bytes]]] = {
    "original": ("jpg", JPEG, lambda scene: jpeg(draw(scene))),
    "dup_recompressed": ("jpg", JPEG, lambda scene: jpeg(draw(scene), _QUALITY_LOW(scene))),
    "dup_resized": ("jpg", JPEG, _resized),
    "dup_brightness": ("jpg", JPEG, _brightened),
    "dup_cropped": ("jpg", JPEG, _cropped),
    "dup_watermark": ("jpg", JPEG, _watermarked),
    "truncated": ("jpg", JPEG, _truncated),
    "bomb": ("png", PNG, _bomb),
    "tiny": ("jpg", JPEG, _tiny),
    "aspect": ("jpg", JPEG, _banner),
    "flat": ("jpg", JPEG, _flat),
    "blurred": ("jpg", JPEG, _blurred),
    "low_entropy": ("png", PNG, _two_inks),
}
