"""Options of the stage export: the published dataset."""

from __future__ import annotations

from pydantic import Field

from toolkit.config.section import Section


class Export(Section):
    """What the dataset holds and how its card describes it."""

    images: bool = True
    """Whether tars with the images stand beside the tables; false publishes addresses and texts only."""

    name: str = Field("DanQing rebuild", min_length=1)
    """Title of the dataset card."""

    license: str = Field("other", min_length=1)
    """Licence identifier in the dataset card; it covers tables and card; images belong to their owners."""

    contact: str | None = None
    """A page or mail address where owners of images can ask for removal; null = the card says that one is
    missing."""
