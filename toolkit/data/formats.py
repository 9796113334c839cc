"""The image formats that the toolkit takes, told by their first bytes: servers' Content-Types and names lie."""

from __future__ import annotations

# File ending -> the format's name, as the column `format` has it.
FORMATS = {"jpg": "JPEG", "png": "PNG", "gif": "GIF", "webp": "WEBP"}


def sniff(head: bytes) -> str | None:
    """Return the file ending of an image by its first 12 bytes, or None for everything outside the list."""
    if head.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    return "webp" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else None
