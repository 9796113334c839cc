"""What became of every raw pair: its id, and the step that dropped it, in input order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from toolkit.data.stage import Kind
from toolkit.recipe import BY_NAME
from toolkit.run.run import Run
from toolkit.run.tables import Shard


def verdicts(run: Run) -> Iterator[tuple[str, str | None]]:
    """Yield (id, step or None) of every raw pair that has a row; memory: one shard."""
    for number in sorted(run.marks(BY_NAME["source"])):
        yield from _shard(Shard(run, number))


def _shard(shard: Shard) -> Iterator[tuple[str, str | None]]:
    stage = BY_NAME["source"]
    source = shard.table(stage, ["id", "dropped"])
    assert source is not None
    verdict = np.array(source["dropped"].to_pylist(), dtype=object)
    verdict[shard.repeated()["row"].to_numpy()] = "source.duplicate"
    living = shard.living(stage, source)
    for stage in shard.run.stages:
        if stage.kind is Kind.REDUCE or stage.name in ("source", "export"):
            continue
        found = shard.table(stage, ["dropped"])
        if found is None:
            break
        verdict[living] = found["dropped"].to_pylist()
        living = living[shard.living(stage, found)]
    yield from zip(source["id"].to_pylist(), verdict.tolist(), strict=True)
