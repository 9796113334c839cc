"""Which bytes become which pixels, and which become a fault."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from toolkit.guard import Fault
from toolkit.image.decode import decode, header

MOST = 1_000_000


def picture(mode: str = "RGB", size: tuple[int, int] = (90, 60)) -> Image.Image:
    """Smooth waves with a little noise: compresses like a photograph."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    waves = np.stack([127 + 120 * np.sin(x / 9 + c) * np.cos(y / (7 + c)) for c in range(3)], axis=2)
    noise = np.random.default_rng(5).normal(0, 3, waves.shape)
    return Image.fromarray((waves + noise).clip(0, 255).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def word(data: bytes, most: int = MOST) -> str | None:
    try:
        decode(data, most)
    except Fault as fault:
        return fault.word
    return None


def plain(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_pixels_are_pillows(mode, progressive):
    data = encoded(picture(mode), "JPEG", quality=80, progressive=progressive)
    assert np.array_equal(decode(data, MOST), plain(data))


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("PNG", "1"), ("PNG", "L"), ("PNG", "P"), ("PNG", "RGB"), ("GIF", "P"), ("GIF", "L"), ("WEBP", "RGB")],
)
def test_other_formats_without_transparency_are_pillows(kind, mode):
    data = encoded(picture(mode), kind)
    assert np.array_equal(decode(data, MOST), plain(data))


def test_jpeg_pixels_of_real_photographs_are_pillows(shared):
    for path in sorted((shared / "web-pairs").glob("*.jpg"))[:10]:
        assert np.array_equal(decode(path.read_bytes(), 1 << 26), plain(path.read_bytes())), path.name


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparent_parts_are_white(kind):
    image = picture("RGBA", (40, 30))
    image.putalpha(Image.fromarray(np.repeat(np.uint8([[0, 128, 255, 255]]), 30, axis=0).repeat(10, axis=1)))
    rgb = decode(encoded(image, kind, lossless=True) if kind == "WEBP" else encoded(image, kind), MOST)
    colours = np.asarray(image.convert("RGB")).astype(int)
    assert (rgb[:, :10] == 255).all()
    assert np.abs(rgb[:, 10:20] - (colours[:, 10:20] * 128 + 255 * 127) / 255).max() <= 1
    assert np.array_equal(rgb[:, 20:], colours[:, 20:])


def test_a_transparent_colour_of_a_palette_is_white():
    image = picture("P")
    rgb = decode(encoded(image, "GIF", transparency=int(np.asarray(image)[0, 0])), MOST)
    assert (rgb[0, 0] == 255).all()


def test_of_sixteen_bits_the_higher_eight_are_kept():
    deep = np.arange(2000, dtype=np.uint16).reshape(40, 50) * 32
    rgb = decode(encoded(Image.fromarray(deep), "PNG"), MOST)
    assert np.array_equal(rgb, np.repeat((deep >> 8).astype(np.uint8)[:, :, None], 3, axis=2))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    with Image.open(io.BytesIO(data)) as image:
        shown = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(decode(data, MOST), shown)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("damage", [b"", b"MM\0*\0\0\0\x08", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff"])
def test_broken_exif_leaves_the_image_as_stored(damage):
    data = encoded(picture(), "JPEG", exif=b"Exif\0\0" + damage)
    assert decode(data, MOST).shape == (60, 90, 3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_read(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    first, second = picture("RGB"), Image.new("RGB", (90, 60), "red")
    if kind == "GIF":
        first = first.quantize(64).convert("RGB")
    data = encoded(first, kind, save_all=True, append_images=[second], **options)
    assert np.array_equal(decode(data, MOST), np.asarray(first))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.97])
def test_a_cut_file_is_a_fault(kind, progressive, share):
    data = encoded(picture(), kind, **({"progressive": True} if kind == "JPEG" and progressive else {}))
    assert word(data) is None
    assert word(data[: int(len(data) * share)]) in ("header", "corrupt")


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_cut_and_ended_properly_is_a_fault(progressive):
    """Pillow and OpenCV fill the missing half with grey and say nothing."""
    data = encoded(picture(), "JPEG", progressive=progressive)
    half = data[: len(data) * 2 // 3] + b"\xff\xd9"
    assert plain(half).shape == (60, 90, 3)
    assert word(half) == "corrupt"


def test_planted_truncated_images_are_faults(shared):
    for path in sorted((shared / "photos").rglob("*.JPEG"))[:5]:
        data = path.read_bytes()
        assert word(data[: len(data) * 6 // 10], 1 << 26) == "corrupt"


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "PPM", "ICO", "JPEG2000", "PDF", "DDS", "TGA"])
def test_formats_outside_the_list_are_refused(kind):
    assert word(encoded(picture(size=(32, 32)), kind)) == "format"


@pytest.mark.parametrize("data", [b"", b"\xff", b"<!DOCTYPE html>", b"GIF8", b"RIFF\0\0\0\0WAVE", b"\0" * 100])
def test_other_bytes_are_refused(data):
    assert word(data) == "format"


@pytest.mark.parametrize("start", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\0\0\0\0WEBP"])
def test_a_header_that_ends_is_a_fault(start):
    assert word(start) == "header"
    assert word(start + b"\0" * 3) == "header"


def bomb(width: int, height: int) -> bytes:
    """A PNG that names any size, with hardly any data."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"0")),
        (b"IEND", b""),
    ]
    chunks = (struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_size_is_judged_by_the_header():
    assert word(bomb(30_000, 30_000), 64_000_000) == "pixels"
    assert word(bomb(0, 100)) == "pixels"
    assert word(bomb(1000, 1000)) == "corrupt"
    for kind in ("JPEG", "PNG", "WEBP", "GIF"):
        data = encoded(picture(), kind)
        assert word(data, 90 * 60) is None
        assert word(data, 90 * 60 - 1) == "pixels"


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}])
@pytest.mark.parametrize("size", [(1, 1), (90, 60), (257, 3)])
def test_the_size_of_each_kind_of_webp_is_read(options, size):
    data = encoded(picture(size=size), "WEBP", **options)
    head = header(data)
    assert (head.format, head.width, head.height) == ("WEBP", *size)


def test_damage_anywhere_gives_pixels_or_a_fault():
    """Never another exception: the word list is all that a column may hold."""
    generator = np.random.default_rng(7)
    for kind in ("JPEG", "PNG", "WEBP", "GIF"):
        data = np.frombuffer(encoded(picture(size=(40, 30)), kind), np.uint8)
        for _ in range(60):
            bad = data.copy()
            bad[generator.integers(0, len(bad), 3)] = generator.integers(0, 256, 3)
            assert word(bad.tobytes(), 100_000) in (None, "format", "header", "pixels", "corrupt")
