"""Text of the crawl as a reader may see it: nothing that turns the line round, moves the cursor, or hides itself."""

from __future__ import annotations


def visible(text: str, limit: int | None = None) -> str:
    """Return the text with control, format (bidi) and unassigned characters as escapes, at most `limit` characters."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:limit])
    if limit is None or max(len(text), len(shown)) <= limit:
        return shown
    return f"{shown[: limit - 1]}…"
