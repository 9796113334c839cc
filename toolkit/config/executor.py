"""Options that say where the work runs; never a threshold, never part of the run's digest."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from toolkit.config.section import Section
from toolkit.config.site import Site


class Executor(Section):
    """Where tasks run."""

    kind: Literal["inline", "local", "slurm"] = "local"
    """inline: in this process, breakpoints work; local: a pool of processes on this machine; slurm: jobs on a
    cluster."""

    workers: int | None = Field(None, ge=1)
    """Processes of the local pool; null = the processors that this process may use."""

    retries: int = Field(2, ge=0)
    """Further attempts after a unit's attempt failed; then it is set aside."""

    site: Site = Site()
    """The cluster, for slurm: a path of a file with its options (configs/clusters/), or the options themselves."""
