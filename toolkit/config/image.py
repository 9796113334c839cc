"""Options of the stage image: visual fidelity and information density."""

from __future__ import annotations

from pydantic import Field

from toolkit.config.section import Section, local


class Image(Section):
    """Thresholds of paper section 3.2 (visual diversification). null = the step is not run."""

    max_aspect: float | None = Field(3.0, ge=1)
    """Longest side over shortest side, at most (paper: 1:3 to 3:1)."""

    min_side: int | None = Field(100, ge=0)
    """The shorter side must be longer than this, in pixels (paper: 100)."""

    min_texture: float | None = Field(2.0, ge=0)
    """Least standard deviation of grey levels (paper: 2)."""

    min_sharpness: float | None = Field(1000.0, ge=0)
    """Least variance of the Laplacian with ksize=3 (paper: 1000; the kernel is inferred)."""

    min_entropy: float | None = Field(3.0, ge=0)
    """Least entropy in bits (paper: 3; Pillow's RGB histogram is inferred)."""

    max_pixels: int = Field(64_000_000, ge=1)
    """Most pixels that are decoded, judged by the header."""

    memory_mb: int = local(2048, ge=256)
    """Address space that the decoder's child process may add to its own."""

    timeout_s: float = local(30.0, gt=0)
    """Longest processor time for one image in the decoder's child process; asleep, it may take ten times as long."""
