"""The published tables of one shard, read for people: only what is valid, and with a plain word where a file is bad."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from toolkit.data import pair, table
from toolkit.data.stage import Stage
from toolkit.data.verdict import alive
from toolkit.errors import WorkError
from toolkit.recipe import BY_NAME, USES
from toolkit.run.layout import relative
from toolkit.run.run import Run


def read(run: Run, stage: Stage, unit: int, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a published table; raises WorkError that names the file where it is missing, damaged or cleaned."""
    if stage.name in run.cleaned:
        raise WorkError(
            f"The tables of {stage.name} were given up by `danqing clean`; {USES[stage.name]} can not be had any more."
        )
    path = run.layout.file(stage, relative(unit, ".parquet"))
    try:
        with path.open("rb") as file:
            return table.read(file, columns)
    except (OSError, pa.ArrowException, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise WorkError(
            f"{path} can not be read ({said}); `danqing repair {run.layout.root}` makes it again."
        ) from error


def repeated(paths: Iterable[Path], shard: int) -> pa.Table:
    """Return what the stage unique dropped of one shard, from the tables of its parts."""
    found = [pair.schema("unique").empty_table()]
    for path in paths:
        with path.open("rb") as file:
            found.append(table.find(file, "shard", pa.array([shard], pa.int32())))
    return pa.concat_tables(found)


class Shard:
    """One shard of a run."""

    def __init__(self, run: Run, shard: int) -> None:
        self.run, self.number = run, shard
        self._repeated: pa.Table | None = None

    def table(self, stage: Stage, columns: Sequence[str] | None = None) -> pa.Table | None:
        """Return the stage's table of this shard, or None where the stage is not done, stale or cleaned."""
        if stage.name in self.run.cleaned or not self.run.valid(stage, self.run.unit_of(stage, self.number)):
            return None
        return read(self.run, stage, self.number, columns)

    def repeated(self) -> pa.Table:
        """Return what the stage unique dropped of this shard: its table's columns."""
        if self._repeated is None:
            stage = BY_NAME["unique"]
            paths = (self.run.layout.file(stage, relative(part, ".parquet")) for part in self.run.marks(stage))
            self._repeated = repeated(paths, self.number)
        return self._repeated

    def living(self, stage: Stage, found: pa.Table) -> npt.NDArray[np.int64]:
        """Return the rows of the stage's table that the next stage gets, in order."""
        rows = alive(found) if "dropped" in found.column_names else np.arange(found.num_rows)
        if stage.name != "source":
            return rows
        return np.setdiff1d(rows, self.repeated()["row"].to_numpy())
