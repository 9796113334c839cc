"""Options of the stages that use features: embed, dedup, align, merge."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from toolkit.config.section import Section, local

# Columns by which `dedup.best` may choose: what stages measure of a pair's text and image.
BEFORE_DEDUP = (
    *("chars", "chinese", "content", "nouns", "unknown", "symbols", "text_entropy"),
    *("bytes", "width", "height", "texture", "sharpness", "image_entropy"),
)
BY_ALIGN = ("cosine", "l2")


class Embed(Section):
    """The encoder whose features decide similarity."""

    encoder: Literal["descriptor"] = "descriptor"
    """descriptor: a colour layout of 24 x 24 x 3 that needs no weights."""


class Dedup(Section):
    """Near-duplicates: edges of cosine distance below `distance`, connected components, one survivor each."""

    distance: float = Field(0.1, gt=0, lt=2)
    """Cosine distance below which two images are the same (paper: beta = 0.1)."""

    keep: Literal["centroid", "first", "best"] = "centroid"
    """Who stays: the image nearest the centroid of its set (paper), the smallest id, or the best by `best`."""

    best: str | None = None
    """With `keep: best`: a measured column, such as sharpness, of which the highest value stays, or with a minus sign
    (-bytes) the lowest. A pair without a value loses; ties go to the smallest id. cosine and l2 are measured after
    dedup: with them merge keeps the best, and dedup, inside a batch, the image nearest the centroid."""

    backend: Literal["exact", "faiss"] = "exact"
    """exact: every edge is found. faiss: images are compared within the nearest of many lists only, for scales where
    exact is too dear; recall is measured and recorded, and the same bytes need the same ranks and threads."""

    lists: int | None = Field(None, ge=1)
    """faiss: lists that the images are dealt to, by likeness; null: four times the root of their number."""

    probes: int = Field(32, ge=1)
    """faiss: lists that each image is compared with: more cost time in proportion and miss less (recall of 32 was
    0.999 or more on 60,000 to 200,000 unit rows without any likeness but that of their copies)."""

    device: Literal["auto", "cpu", "cuda"] = local("auto")
    """exact: where rows are compared; the result is the same. auto: on a GPU where PyTorch finds one and the join is
    large enough to gain by it. cuda: on a GPU, or not at all. Ranks of one node share its GPUs in turn. faiss takes a
    GPU by itself where it is built for one, and wants auto here."""

    scope: Literal["both", "batch", "global"] = "both"
    """both: inside each batch, then over all survivors (paper); batch or global: only one of the two."""

    earlier: list[str] = Field([])
    """Folders of finished runs, whose published pairs count, and files of features, all of whose rows count, or glob
    patterns: a pair that is like one of them is dropped. Their content belongs to the recipe, not where they lie."""

    @model_validator(mode="after")
    def _read(self) -> Dedup:
        if self.backend == "faiss" and self.device != "auto":
            raise ValueError(
                f"device: {self.device} is for backend: exact; FAISS takes a GPU by itself where it is built for one. "
                "Give device: auto"
            )
        return self

    @model_validator(mode="after")
    def _compared(self) -> Dedup:
        if self.earlier and self.scope == "batch":
            raise ValueError("with scope: batch nothing is held against dedup.earlier; give scope: both or global")
        return self

    @model_validator(mode="after")
    def _named(self) -> Dedup:
        if (self.keep == "best") != (self.best is not None):
            raise ValueError("keep: best and best: COLUMN belong together, and neither goes without the other")
        columns = (*BEFORE_DEDUP, *BY_ALIGN)
        if self.best is not None and self.best.removeprefix("-") not in columns:
            raise ValueError(f"best names {self.best}; it may be one of {', '.join(columns)}, or one with a minus sign")
        if self.by_align and self.scope == "batch":
            raise ValueError(f"best: {self.best} is measured after dedup, so with scope: batch nothing is kept by it")
        return self

    @property
    def by_align(self) -> bool:
        """Return whether `best` names a column that only merge can see."""
        return self.best is not None and self.best.removeprefix("-") in BY_ALIGN


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
