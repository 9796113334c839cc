"""Why an image could not be decoded: one word of a fixed list, so that columns are the same on every machine."""

from __future__ import annotations

# The words that may stand in the column `fault`, and what each says about the image.
FAULTS = {
    "format": "neither JPEG, PNG, WebP nor GIF by its first bytes",
    "header": "the header is cut, or two readings of it disagree",
    "pixels": "the header names more pixels than `max_pixels`, or none",
    "corrupt": "the pixels are cut or damaged",
    "memory": "a fresh child process ran out of `memory_mb`",
    "time": "a fresh child process ran out of `timeout_s`",
    "crash": "a fresh child process died of it",
    "missing": "the tar holds no such member",
    "digest": "the member's bytes are not those that were fetched",
}
