"""What every part of the configuration has in common: frozen, closed, documented field by field."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A frozen group of options; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)


def local(default: Any = ..., **rules: Any) -> Any:
    """Describe an option that belongs to the machine and not to the science.

    Such options stay out of the run's digest: they may change between two starts of one run.
    """
    return Field(default, json_schema_extra={"local": True}, **rules)
