"""The whole configuration: three layers of YAML and `--set` merged, checked, and digested.

Relative paths are relative to the working directory, `extends` to the file that says it. The digest covers the
recipe and the input list and nothing else: run_dir, executor and options marked local may change during a run.
"""

from __future__ import annotations

import difflib
import glob
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError

from toolkit.config.embed import Align, Dedup, Embed
from toolkit.config.executor import Executor
from toolkit.config.export import Export
from toolkit.config.fetch import Fetch, Hosts
from toolkit.config.image import Image
from toolkit.config.section import Section, local
from toolkit.config.source import Input, Source
from toolkit.config.text import Text, Words
from toolkit.errors import UserError

# Options that name a list or folder whose content, not its path, belongs to the recipe.
LISTS = ("source.blacklist", "source.safety", "text.stopwords", "text.lexicon", "text.tokenizer")
BUILTIN = "builtin"

# Options that came after the first runs. At their default they stay out of the digest, as such a run did what they say
# without them, and must be able to go on. Those of FAISS alone say nothing at all where the join is exact.
FAISS = ("dedup.lists", "dedup.probes")
LATER = ("dedup.best", "dedup.earlier", *FAISS)

# The sections that a stage reads, where they are not the one of its name.
SECTIONS: Mapping[str, tuple[str, ...]] = {
    "unique": (),
    "text": ("text", "words"),  # without a table of the stage words it counts them itself
    "hosts": ("hosts", "fetch"),
    "fetch": ("fetch", "hosts"),
    "embed": ("embed", "image"),
    "merge": ("dedup",),
}
PAPER_BAND = {"l2": [1.06, 1.24]}


class Config(Section):
    """One run."""

    run_dir: str = local("runs/default")
    """Folder of the run; made if missing."""

    input: Input

    batches: int = Field(1, ge=1)
    """Batches deduplicated apart before all are merged (paper: 7); batch of shard s = s * batches // shards."""

    allow_missing: bool = local(False)
    """Whether stages that need all shards go on without those that were set aside; card and report name them."""

    source: Source = Source()
    words: Words = Words()
    text: Text = Text()
    hosts: Hosts = Hosts()
    fetch: Fetch = Fetch()
    image: Image = Image()
    embed: Embed = Embed()
    dedup: Dedup = Dedup()
    align: Align | None = None
    """null: the step is not run, and stands so in the funnel."""

    export: Export = Export()
    executor: Executor = local(Executor())


@dataclass(frozen=True, slots=True)
class InputFile:
    """One raw input file: its absolute path and its size in bytes."""

    path: str
    bytes: int


def load(path: str, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration file with its bases and `--set` overrides; raises UserError with one paragraph."""
    tree = _read(Path(path), seen=())
    if {"digest", "shards", "config"} <= tree.keys():
        raise UserError(
            f"{path} is the record that a run keeps of itself, not a configuration; give the configuration that the "
            "run was started with, or copy what stands under `config:` to a file of its own and set run_dir there."
        )
    _include_site(tree)
    for override in overrides:
        _assign(tree, override)
    _include_site(tree)
    return check(tree, path)


def check(tree: Mapping[str, Any], where: str) -> Config:
    """Turn a plain tree into a Config; raises UserError that names each wrong option."""
    try:
        return Config.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        problems = "; ".join(_problem(dict(e)) for e in error.errors())
        raise UserError(f"{where}: {problems}. docs/configuration.md lists every option.") from error
    except TypeError as error:
        raise UserError(f"{where}: a value is not plain YAML ({error}); write dates and sets as strings.") from error


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve()
    if path in seen:
        raise UserError(f"{path} extends itself, by way of {' -> '.join(p.name for p in seen)}; remove one `extends`.")
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    except OSError as error:
        raise UserError(
            f"The configuration {path} can not be read: {error.strerror}. Give the path of a YAML file."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}. Mend that line.") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds {type(tree).__name__}, expected options as `name: value` lines.")
    base = tree.pop("extends", None)
    if base is None:
        return tree
    return _merge(_read(path.parent / str(base), (*seen, path)), tree)


def _include_site(tree: dict[str, Any]) -> None:
    """Put the options of the site's file where its path stands: jobs read them from the run folder alone."""
    executor = tree.get("executor")
    if isinstance(executor, dict) and isinstance(executor.get("site"), str):
        tree["executor"] = executor | {"site": _read(Path(executor["site"]), seen=())}


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _assign(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set {override}: expected name=value, for instance --set dedup.distance=0.08.")
    *parents, leaf = key.split(".")
    for parent in parents:
        child = tree.get(parent)
        tree[parent] = child = dict(child) if isinstance(child, dict) else {}
        tree = child
    try:
        tree[leaf] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {override}: the value is not YAML; quote it.") from error


def _problem(error: dict[str, Any]) -> str:
    location = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = _known(error["loc"][:-1])
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        return f"unknown option {location}: {hint}"
    if error["type"] == "missing":
        return f"{location} is missing"
    said = error["msg"].removeprefix("Value error, ")
    return f"{location} is {json.dumps(error.get('input'), ensure_ascii=False, default=str)[:200]}: {said}"


def _known(path: Sequence[Any]) -> list[str]:
    model: type[BaseModel] = Config
    for part in path:
        field = model.model_fields.get(str(part))
        kinds = [field.annotation, *get_args(field.annotation)] if field else []
        model = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), model)
    return list(model.model_fields)


def resolve(config: Config) -> tuple[Config, list[InputFile]]:
    """Return the configuration with absolute paths, and the sorted input files; raises UserError for a missing one.

    So it does where one section needs what another leaves out.
    """
    if config.dedup.by_align and config.align is None:
        raise UserError(
            f"dedup.best is {config.dedup.best}, which the stage align measures, and align is null, so it is not "
            "run. Give align a band, or name a column of an earlier stage."
        )
    files = sorted({path for pattern in config.input.paths for path in expand(pattern, "input.paths")})
    inputs = [InputFile(path, Path(path).stat().st_size) for path in files]
    tree = config.model_dump(mode="json")
    tree["input"]["paths"] = [str(Path(p).absolute()) for p in config.input.paths]
    if odd := [path for path in tree["input"]["paths"] if not _is_text(path)]:
        raise UserError(
            f"input.paths: {odd[0]!r} is not UTF-8, so run.yaml can not hold it; give a glob pattern or link."
        )
    for name in LISTS:
        section, option = name.split(".")
        value = tree[section][option]
        if value not in (None, BUILTIN):
            path = Path(value).absolute()
            if not path.exists():
                raise UserError(f"{name} names {path}, which does not exist; give an existing path, builtin, or null.")
            tree[section][option] = str(path)
    tree["dedup"]["earlier"] = [str(Path(p).absolute()) for p in config.dedup.earlier]
    return check(tree, "configuration"), inputs


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def expand(pattern: str, option: str) -> list[str]:
    """Return the sorted absolute paths of the files that a pattern matches; raises UserError where there are none."""
    matches = sorted(str(Path(p).absolute()) for p in glob.iglob(pattern, recursive=True) if Path(p).is_file())
    if not matches and Path(pattern).is_file():  # a name that only looks like a pattern, "a[1].gz"
        matches = [str(Path(pattern).absolute())]
    if not matches:
        raise UserError(
            f"{option}: {pattern} matches no file (working directory {Path.cwd()}); "
            "give existing files or a glob pattern."
        )
    return matches


def alone(name: str, path: str | None, overrides: Sequence[str]) -> Config:
    """Return the configuration of one stage alone, from a file or the defaults; raises UserError.

    Only what the stage reads counts: a mistake elsewhere in the file stops nothing. A stage that is asked for by name
    is run, whether or not the configuration leaves it out of a whole run.
    """
    wanted = SECTIONS.get(name, (name,))
    tree = {key: value for key, value in (_read(Path(path), seen=()) if path else {}).items() if key in wanted}
    for override in overrides:
        if override.partition("=")[0].split(".")[0] not in wanted:
            raise UserError(f"--set {override}: the stage {name} reads no options but those of {', '.join(wanted)}.")
        _assign(tree, override)
    if name == "align" and tree.get("align") is None:
        tree["align"] = PAPER_BAND
    if name in ("dedup", "merge") and isinstance(tree.get("dedup"), dict):
        tree["dedup"] = tree["dedup"] | {"scope": "both"}
    return check({**tree, "input": {"kind": "table", "paths": ["-"]}}, path or "--set")


def digest(config: Config, inputs: Sequence[InputFile], earlier: Sequence[str] = ()) -> str:
    """Return the 32 hex digits of recipe and input list; a run folder belongs to one digest.

    Input files count by their path below their common folder and their size, so data may be moved as a whole. `earlier`
    says what the sources of dedup.earlier hold; neither their place nor their order counts.
    """
    tree = recipe(config)
    tree.pop("run_dir", None)
    root = _common([f.path for f in inputs])
    tree["input"]["paths"] = [[f.path[len(root) :], f.bytes] for f in inputs]
    tree["dedup"]["earlier"] = sorted(earlier)
    for name in _unsaid(config):
        section, option = name.split(".")
        del tree[section][option]
    for name in LISTS:
        section, option = name.split(".")
        if tree[section][option] not in (None, BUILTIN):
            tree[section][option] = content(Path(tree[section][option]))
    return hashlib.blake2b(canonical(tree), digest_size=16).hexdigest()


def _common(paths: Sequence[str]) -> str:
    parents = {str(Path(p).parent) for p in paths}
    root = next(iter(parents)) if len(parents) == 1 else str(Path(*_shared([Path(p).parts for p in parents])))
    return root.rstrip("/") + "/"


def _shared(parts: Sequence[tuple[str, ...]]) -> list[str]:
    return [level[0] for level in zip(*parts, strict=False) if len(set(level)) == 1]


def _unsaid(config: Config) -> list[str]:
    """Return the options of LATER, and of FAISS, that say nothing here."""
    unread = FAISS if config.dedup.backend == "exact" else ()
    return [name for name in LATER if name in unread or _default(config, *name.split("."))]


def _default(config: Config, section: str, option: str) -> bool:
    model = getattr(config, section)
    return bool(getattr(model, option) == type(model).model_fields[option].get_default())


def recipe(section: BaseModel) -> dict[str, Any]:
    """Return the options of a section, and of those in it, but for the local ones."""
    tree: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("local"):
            continue
        value = getattr(section, name)
        tree[name] = recipe(value) if isinstance(value, BaseModel) else value
    return tree


def content(path: Path) -> str:
    """Return a digest of a file's bytes, or of the names and bytes of the files in a folder."""
    hasher = hashlib.blake2b(digest_size=16)
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        data = file.read_bytes()
        hasher.update(canonical([file.relative_to(path).as_posix(), len(data)]) + data)
    return hasher.hexdigest()


def canonical(tree: Any) -> bytes:
    """Return the one JSON text of a plain tree: sorted keys, no spaces, UTF-8."""
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
