"""Make room: remove the data of stages whose work is done, once all of it is proven right; their marks stay.

A whole crawl's images are tens of terabytes, and lie there twice. What was cleaned is written down first, so a clean
that is cut off goes on at the next call, and nobody takes files that were given up for files that were lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from toolkit.data.stage import Stage
from toolkit.errors import UserError, WorkError
from toolkit.recipe import USES
from toolkit.run import clock, files
from toolkit.run.run import Run
from toolkit.run.verify import verify

ALIASES = {"features": "embed", "images": "fetch", "dataset": "export"}


@dataclass(frozen=True, slots=True)
class Room:
    """What cleaning one stage frees, and what ends with it."""

    stage: str
    files: int
    bytes: int
    loses: str


def room(run: Run, keep: str) -> list[Room]:
    """Return what would go, stage by stage; raises UserError for a name that is none."""
    return [_room(run, stage) for stage in _chosen(run, keep)]


def _chosen(run: Run, keep: str) -> list[Stage]:
    kept = {ALIASES.get(name.strip(), name.strip()) for name in keep.split(",") if name.strip()}
    known = {stage.name for stage in run.stages}
    if unknown := sorted(kept - known):
        raise UserError(
            f"--keep {keep}: {unknown[0]} is no stage of this run; known are {', '.join(s.name for s in run.stages)}, "
            f"and {', '.join(f'{alias} for {name}' for alias, name in ALIASES.items())}."
        )
    if not run.config.export.images and "fetch" not in kept:
        raise UserError(
            f"--keep {keep}: this run publishes no images of its own (export.images: false), so those of the dataset "
            "lie in 30_fetch alone; add images to --keep."
        )
    return [stage for stage in run.stages if stage.name not in kept and run.layout.data(stage).exists()]


def _room(run: Run, stage: Stage) -> Room:
    sizes = [path.stat().st_size for path in run.layout.data(stage).rglob("*") if path.is_file()]
    return Room(stage.name, len(sizes), sum(sizes), USES[stage.name])


def clean(run: Run, keep: str) -> Iterator[Room]:
    """Verify a run that is held, then remove the data of all stages but those kept; yield what went.

    Raises WorkError where the run is not complete and right: what is wrong may need what would go.
    """
    chosen = _chosen(run, keep)
    found = next(verify(run), None)
    if found is not None:
        raise WorkError(
            f"Nothing was removed: {found}. A run is cleaned when it is complete and right; `danqing repair "
            f"{run.layout.root}` mends it."
        )
    rooms = [_room(run, stage) for stage in chosen]
    record = {"stages": sorted(run.cleaned | {stage.name for stage in chosen}), "time": clock.now()}
    files.replace(run.layout.cleaned, json.dumps(record).encode())
    for stage, freed in zip(chosen, rooms, strict=True):
        files.clear(run.layout.data(stage))
        if run.layout.data(stage).exists():
            raise WorkError(
                f"{run.layout.data(stage)} could not be removed; see who may write there, then clean again."
            )
        yield freed
