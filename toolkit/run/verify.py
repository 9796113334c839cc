"""Prove that a run folder holds what its marks say and that its stages fit each other.

Checked: every unit has a valid mark; every file its size and digest; no file in data/ without a mark; each table the
columns of its stage and the ids that the stage before left; features finite where they are alive; every image the
bytes that its table names; no id twice in the export; the manifest complete. Of stages that were cleaned only the
marks. Memory: one shard, and 16 bytes a published pair.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from toolkit.data import ids, pair
from toolkit.data.ids import Ids
from toolkit.data.stage import Kind, Output, Stage, stem
from toolkit.data.tar import DigestError, checked
from toolkit.data.verdict import alive
from toolkit.errors import WorkError
from toolkit.recipe import BY_NAME
from toolkit.run import files
from toolkit.run.layout import relative
from toolkit.run.ledger import Entry, Ledger, check_output
from toolkit.run.run import Run
from toolkit.run.tables import read
from toolkit.run.task import RunTask


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    stage: str
    """Name of the stage."""
    unit: int
    """The unit; 0 for files that belong to no mark."""
    what: str
    """What is wrong with it."""
    kind: Literal["missing", "stale", "damaged", "stray"]
    """missing: not done; stale: its input is not valid or changed, or the toolkit changed; damaged; stray: a file that
    belongs to no mark."""
    path: str = ""
    """The file below data/ that is damaged or stray, where it is one."""

    def __str__(self) -> str:
        return f"{self.stage} {stem(self.unit)}: {self.what}"


def verify(run: Run) -> Iterator[Problem]:
    """Yield every problem of a run folder; nothing for a complete and sound one."""
    run.forget()
    run.intact()
    sound: dict[str, set[int]] = {}
    for stage in run.stages:
        bad = yield from _unsound(run, stage)
        sound[stage.name] = set(run.ledger.entries(stage)) - bad
    for stage in (s for s in run.stages if s.name not in run.cleaned):
        for unit in sorted(sound[stage.name]):
            yield from _content(run, stage, unit, sound)
    if "export" not in run.cleaned:
        yield from _export(run, sound["export"])


def repair(run: Run) -> list[Problem]:
    """Take back damaged units and remove stray files of a run that is held; return what was found.

    Running the run again redoes them; what depends on them is done again only where their bytes came out different,
    so stale units, and missing ones, are left to the run.
    """
    found = list(verify(run))
    if run.cleaned and any(problem.kind == "damaged" for problem in found):
        raise WorkError(
            f"{found[0]}. It can not be made again, because `danqing clean` gave up the data of "
            f"{', '.join(sorted(run.cleaned))}; restore the file from a copy."
        )
    for name in {problem.stage for problem in found if problem.kind == "damaged"}:
        files.remove(run.layout.folded(BY_NAME[name]))  # whether the fold or the mark is the right one, nobody knows
        run.forget(BY_NAME[name])
    for problem in found:
        stage = BY_NAME[problem.stage]
        if problem.kind == "stray":
            files.remove(run.layout.file(stage, problem.path))
        elif problem.kind == "damaged" and problem.unit < run.all_units(stage):
            run.retract(stage, problem.unit)
        elif problem.kind == "damaged":
            files.remove(run.layout.mark(stage, problem.unit))  # the files that it names may be another unit's
    return found


def _unsound(run: Run, stage: Stage) -> Generator[Problem, None, set[int]]:
    """Yield missing and stale units, damaged files, and files that no mark names; return the damaged units."""
    bad: set[int] = set()
    done, entries = set(run.marks(stage)), run.ledger.entries(stage)
    for unit in sorted(set(range(run.all_units(stage))) - done):
        if unit in entries:
            yield Problem(stage.name, unit, "stale: its input or the toolkit changed", "stale")
        else:
            yield Problem(stage.name, unit, "not done", "missing")
    loose = Ledger(run.layout, folds=False).entries(stage)
    for unit in sorted(u for u in {*entries, *loose} if _told(loose, u) != _told(entries, u)):
        bad.add(unit)
        yield Problem(stage.name, unit, "its mark is missing, damaged, or not the one in done.parquet", "damaged")
    for unit in sorted({*entries} - set(range(run.all_units(stage)))):
        bad.add(unit)
        yield Problem(stage.name, unit, "its mark is of a unit that this run does not have", "damaged")
    outputs: dict[int, list[Output]] = {}
    for unit, entry in sorted(entries.items()):
        try:
            outputs[unit] = entry.mark.outputs
        except WorkError as error:
            bad.add(unit)
            yield Problem(stage.name, unit, str(error).partition(";")[0], "damaged")
    for unit, named in outputs.items() if stage.name not in run.cleaned else ():
        for output in named:
            try:
                check_output(run.layout, stage, output)
            except WorkError as error:
                bad.add(unit)
                yield Problem(stage.name, unit, str(error).partition(";")[0], "damaged", output.path)
    known = {output.path for named in outputs.values() for output in named}
    data = run.layout.data(stage)
    for path in sorted(p for p in data.rglob("*") if not p.is_dir()) if data.exists() else []:
        name = path.relative_to(data).as_posix()
        if name not in known:
            yield Problem(stage.name, 0, f"data/{name} belongs to no mark", "stray", name)
    return bad


def _told(entries: Mapping[int, Entry], unit: int) -> tuple[str, int] | None:
    return (entries[unit].digest, entries[unit].stamp) if unit in entries else None


def _content(run: Run, stage: Stage, unit: int, sound: Mapping[str, set[int]]) -> Iterator[Problem]:
    try:
        for shard in _table_shards(run, stage, unit):
            yield from _rows(run, stage, unit, shard, sound)
        if stage.name == "fetch" or (stage.name == "export" and not run.closing(stage, unit)):
            yield from _tar(run, stage, unit)
        if stage.name == "embed":
            yield from _features(run, stage, unit)
    except (WorkError, OSError, ValueError, pa.ArrowException, EOFError) as error:
        yield Problem(stage.name, unit, f"not readable: {' '.join(str(error).split())[:300]}", "damaged")


def _table_shards(run: Run, stage: Stage, unit: int) -> list[int]:
    if stage.kind is Kind.REDUCE or run.closing(stage, unit):
        return []
    return list(run.shards_of(stage, unit))


def _rows(run: Run, stage: Stage, unit: int, shard: int, sound: Mapping[str, set[int]]) -> Iterator[Problem]:
    found = read(run, stage, shard)
    if found.schema.names != pair.schema(stage.name).names:
        what = f"columns {found.schema.names}, expected {pair.schema(stage.name).names}"
        yield Problem(stage.name, unit, what, "damaged")
        return
    yield from _counts(run, stage, unit, shard, found)
    if stage.name == "source":
        return
    if run.cleaned & {"unique", *run.chain(stage)}:
        return  # what it is made of was given up when both were right
    before = BY_NAME[run.chain(stage)[0]]
    if run.unit_of(before, shard) not in sound[before.name] or len(sound["unique"]) < run.parts:
        return  # the stage before has the fault, and is named for it
    task = RunTask(run, stage, shard, Path(), {})
    expected = task.rows("id", shard=shard)["id"].combine_chunks()
    if found["id"].combine_chunks() != expected:
        what = f"shard {stem(shard)} has {found.num_rows} rows that are not the {len(expected)} before it"
        yield Problem(stage.name, unit, what, "damaged")


def _counts(run: Run, stage: Stage, unit: int, shard: int, found: pa.Table) -> Iterator[Problem]:
    """Hold a table's rows against what its mark says of them."""
    mark, name = run.ledger.entries(stage)[unit].mark, relative(shard, ".parquet")
    written = next((output.rows for output in mark.outputs if output.path == name), None)
    left = len(alive(found)) if "dropped" in found.column_names else found.num_rows
    if written != found.num_rows or (stage.kind is Kind.MAP and left != mark.rows_out):
        what = f"shard {stem(shard)} has {found.num_rows} rows and leaves {left}, not {written} and {mark.rows_out}"
        yield Problem(stage.name, unit, what, "damaged")


def _tar(run: Run, stage: Stage, unit: int) -> Iterator[Problem]:
    found = read(run, stage, unit)
    rows = alive(found) if stage.name == "fetch" else np.flatnonzero(found["tar"].is_valid())
    offsets, sizes = found["offset"].to_pylist(), found["bytes"].to_pylist()
    digests, names = found["digest"].to_pylist(), found["id"].to_pylist()
    with run.layout.file(stage, relative(unit, ".tar")).open("rb") as tar:
        for row in rows:
            try:
                checked(tar, offsets[row], sizes[row], digests[row])
            except DigestError:
                yield Problem(stage.name, unit, f"the image of {names[row]} is not the one that was fetched", "damaged")


def _features(run: Run, stage: Stage, unit: int) -> Iterator[Problem]:
    from toolkit.data.features import read as features_of

    living = alive(read(run, stage, unit))
    with run.layout.file(stage, relative(unit, ".h5")).open("rb") as file:
        features = features_of(file)
        n = len(features)
        if not np.array_equal(features.ids(), _ids(run, stage, unit)):
            yield Problem(stage.name, unit, "its features are of other ids than its table", "damaged")
        block = features.block(0, n)
        bad = living[~np.isfinite(block[living].astype(np.float32)).all(axis=1)] if n else living
    if len(bad):
        yield Problem(stage.name, unit, f"{len(bad)} living rows have features that are not finite", "damaged")


def _ids(run: Run, stage: Stage, shard: int) -> Ids:
    """Return the ids of a shard."""
    return ids.array(read(run, stage, shard, ["id"])["id"])


def _export(run: Run, units: set[int]) -> Iterator[Problem]:
    stage, closing = BY_NAME["export"], run.units(BY_NAME["export"])
    shards = sorted(units - {closing})
    found = np.concatenate([np.empty((0, pair.ID_BYTES), np.uint8), *(_ids(run, stage, shard) for shard in shards)])
    words = ids.words(found)
    words.sort()
    twice = int((words[1:] == words[:-1]).sum())
    if twice:
        yield Problem(stage.name, closing, f"{twice} ids stand twice in the dataset", "damaged")
    if closing in units:
        manifest = json.loads(run.layout.file(stage, "manifest.json").read_bytes())
        listed = {(f["path"], f["digest"]) for f in manifest["files"]}
        made = {(o.path, o.digest) for s in shards for o in run.ledger.entries(stage)[s].mark.outputs}
        if listed != made:
            yield Problem(
                stage.name, closing, f"manifest.json and the data differ in {len(listed ^ made)} files", "damaged"
            )
