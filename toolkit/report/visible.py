"""Text of the crawl as a reader may see it: nothing that turns the line round, moves the cursor, or hides itself."""

from __future__ import annotations


def visible(text: str, limit: int | None = None) -> str:
    """Return the text with each control, format (bidi) and unassigned character as its escape, cut after `limit`."""
    cut = text if limit is None else text[:limit]
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in cut)
    return shown if len(cut) == len(text) else f"{shown}…"
