"""What became of every raw pair: its id, and the step that dropped it, in input order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from toolkit.data import table
from toolkit.data.stage import Kind, Stage
from toolkit.data.verdict import alive
from toolkit.recipe import BY_NAME
from toolkit.run.layout import relative
from toolkit.run.run import Run


def verdicts(run: Run) -> Iterator[tuple[str, str | None]]:
    """Yield (id, step or None) of every raw pair that has a row; memory: one shard."""
    for shard in sorted(run.ledger.entries(BY_NAME["source"])):
        yield from _shard(run, shard)


def _shard(run: Run, shard: int) -> Iterator[tuple[str, str | None]]:
    source = _table(run, BY_NAME["source"], shard, ["id", "dropped"])
    verdict = np.array(source["dropped"].to_pylist(), dtype=object)
    living = alive(source)
    for part in sorted(run.ledger.entries(BY_NAME["unique"])):
        with run.layout.file(BY_NAME["unique"], relative(part, ".parquet")).open("rb") as file:
            rows = table.find(file, "shard", pa.array([shard], pa.int32()))["row"].to_numpy()
        verdict[rows] = "source.duplicate"
        living = np.setdiff1d(living, rows)
    for stage in run.stages:
        judged = stage.kind is not Kind.REDUCE and stage.name not in ("source", "export")
        if judged and run.layout.file(stage, relative(shard, ".parquet")).exists():
            found = _table(run, stage, shard, ["dropped"])
            verdict[living] = found["dropped"].to_pylist()
            living = living[alive(found)]
    yield from zip(source["id"].to_pylist(), verdict.tolist(), strict=True)


def _table(run: Run, stage: Stage, shard: int, columns: list[str]) -> pa.Table:
    with run.layout.file(stage, relative(shard, ".parquet")).open("rb") as file:
        return table.read(file, columns)
