"""Formats are told by their first bytes and by nothing else."""

from __future__ import annotations

from toolkit.data.formats import sniff


def test_first_bytes_tell_the_format() -> None:
    heads = [
        b"\xff\xd8\xff\xdb",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"RIFF\0\0\0\0WEBP",
        b"RIFF\0\0\0\0WAVE",
        b"<svg",
        b"",
    ]
    assert [sniff(head) for head in heads] == ["jpg", "png", "gif", "webp", None, None, None]
