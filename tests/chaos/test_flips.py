"""One flipped bit anywhere in data/ is found by `verify` and mended by `repair`, a hundred times on one run."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from tests.chaos.play import Scene, flip
from tests.crawl import tree
from toolkit.recipe import STAGES
from toolkit.run.drive import drive
from toolkit.run.run import create, open_run
from toolkit.run.verify import repair, verify

FLIPS = 100

pytestmark = pytest.mark.prove


class Count:
    """Counts the units that are done again."""

    def __init__(self) -> None:
        self.units: list[str] = []

    def begin(self, *_: object) -> None: ...

    def rows(self, *_: object) -> None: ...

    def unit(self, stage: object) -> None:
        self.units.append(stage.name)  # type: ignore[attr-defined]

    def failed(self, *_: object) -> None: ...

    def end(self, *_: object) -> None: ...


def test_a_hundred_flipped_bits(scene: Scene) -> None:
    rng = random.Random(5)
    root = Path(shutil.copytree(scene.reference, scene.reference.parent / "flips"))
    config = scene.config.model_copy(update={"run_dir": str(root)})
    paths = sorted(p for p in root.glob("*/data/**/*") if p.is_file() and p.stat().st_size)
    for number in range(FLIPS):
        path = rng.choice(paths)
        flip(path, rng)
        where = path.relative_to(root)
        found = [p for p in verify(open_run(root)) if p.kind == "damaged"]
        stage = next(s for s in STAGES if s.folder == where.parts[0])
        assert {p.stage for p in found} == {stage.name}, (number, where, found)
        assert path.name in {Path(p.path).name for p in found}, (number, where, found)
        run = create(config)
        repair(run)
        run.forget()
        assert drive(run, again := Count()).complete, (number, where)
        run.free()
        if stage.name != "fetch":  # its table holds milliseconds, so what follows may be done again
            assert set(again.units) <= {stage.name}, (number, where, again.units)
        assert tree(root, skip=("30_fetch",)) == scene.published, (number, where)
    assert not list(verify(open_run(root)))
