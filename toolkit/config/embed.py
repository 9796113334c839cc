"""Options of the stages that use features: embed, dedup, align, merge."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from toolkit.config.section import Section


class Embed(Section):
    """The encoder whose features decide similarity."""

    encoder: Literal["descriptor"] = "descriptor"
    """descriptor: a colour layout of 24 x 24 x 3 that needs no weights."""


class Dedup(Section):
    """Near-duplicates: edges of cosine distance below `distance`, connected components, one survivor each."""

    distance: float = Field(0.1, gt=0, lt=2)
    """Cosine distance below which two images are the same (paper: beta = 0.1)."""

    keep: Literal["centroid", "first"] = "centroid"
    """Who stays: the image nearest the centroid of its set (paper), or the smallest id."""

    backend: Literal["exact"] = "exact"
    """exact: every edge is found."""

    scope: Literal["both", "batch", "global"] = "both"
    """both: inside each batch, then over all survivors (paper); batch or global: only one of the two."""


class Align(Section):
    """Keep pairs whose image and text features lie in a band; exactly one unit is given."""

    l2: tuple[float, float] | None = None
    """Distance of unit vectors, both ends included (paper: 1.06 to 1.24)."""

    cosine: tuple[float, float] | None = None
    """The same as a cosine, both ends included (paper: 0.2312 to 0.4382)."""

    @model_validator(mode="after")
    def _one_unit(self) -> Align:
        if (self.l2 is None) == (self.cosine is None):
            raise ValueError("give exactly one of l2 and cosine: 1.06-1.24 is a distance, 0.23-0.44 a cosine")
        low, high = self.l2 or self.cosine or (0.0, 0.0)
        if low > high:
            raise ValueError(f"the band [{low}, {high}] is empty: the first number must not be the larger")
        return self
