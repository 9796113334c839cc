"""Options that say where the work runs; never a threshold, never part of the run's digest."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from toolkit.config.section import Section


class Executor(Section):
    """Where tasks run."""

    kind: Literal["inline", "local"] = "local"
    """inline: in this process, breakpoints work; local: a pool of processes on this machine."""

    workers: int | None = Field(None, ge=1)
    """Processes of the local pool; null = the processors that this process may use."""

    retries: int = Field(2, ge=0)
    """Further attempts after a unit's attempt failed; then it is set aside."""
