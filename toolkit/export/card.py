"""The dataset card, README.md: front matter that `datasets.load_dataset(folder)` obeys, then a page to read.

Promises: nothing from the crawl stands in it, and nothing about the machine (options marked local, paths), so
the same run gives the same card everywhere; titles and contacts from the configuration are escaped.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import toolkit
from toolkit.config.config import BUILTIN, LISTS, Config
from toolkit.data.pair import COLUMNS
from toolkit.data.stage import FunnelRow, Output
from toolkit.export.manifest import rows, size

PAPER = "https://arxiv.org/abs/2601.10305"

# The Hub's own classes (field size_categories of dataset cards): each begins at a power of ten.
_BOUNDS = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
_SIZES = ("n<1K", *(f"{low}<n<{high}" for low, high in pairwise(_BOUNDS)), "n>1T")

# Options that describe the input, the machine, or this page, and not a decision about pairs.
_ELSEWHERE = {"run_dir", "input", "executor", "export"}

_ABOUT = """\
Image-text pairs with Chinese captions, built from Common Crawl by danqing-toolkit {version} after the
recipe of [DanQing]({paper}). A pair is one image address with one text. Pairs: {rows:,}; data files: {files:,}
({bytes:,} bytes). {images}

Config digest of the run: `{digest}`. The same input, configuration and version give the same files."""

_WITH = """\
Beside each parquet table stands a webdataset tar with the images, byte for byte as they were sent."""

_WITHOUT = """\
The images themselves are not published here: the tables hold their addresses, sizes and digests."""

_LOAD = """\
```python
from datasets import load_dataset

pairs = load_dataset("PATH/TO/THIS/FOLDER", split="train")
```
"""

_LOAD_IMAGES = """
The tars hold `<id>.jpg` (or png, webp, gif), `<id>.txt` (the caption) and `<id>.json` for each pair:

```python
from pathlib import Path

import webdataset

tars = sorted(str(path) for path in Path("PATH/TO/THIS/FOLDER").glob("*/*.tar"))
pairs = webdataset.WebDataset(tars, shardshuffle=False).decode("pil")
for image, caption, facts in pairs.to_tuple("jpg;png;webp;gif", "txt", "json"):
    ...
```

One image alone is read by seeking in the tar that column `tar` names; nothing need be unpacked:

```python
with open(tar, "rb") as file:
    file.seek(row["offset"])
    image = file.read(row["bytes"])
```
"""

_RIGHTS = """\
The licence in the front matter covers the selection: tables and card. The licences of images and texts stay
with their owners, under the terms of the pages they stand on (column `page`); this dataset gives no rights in
them. Nobody looked at each pair, and filters make mistakes: what it shows of persons, brands and opinions is
the web's.

Owners of an image or a text, and persons shown, can have it taken down: name the pair by `id` or `url`.
{contact}"""


def card(
    config: Config, files: Sequence[Output], funnel: Sequence[FunnelRow], missing: Sequence[int], digest: str
) -> str:
    """Return README.md for these data files, this run's funnel, and the shards that are missing."""
    images = config.export.images
    about = _ABOUT.format(
        version=toolkit.__version__,
        paper=PAPER,
        rows=rows(files),
        files=len(files),
        bytes=size(files),
        images=_WITH if images else _WITHOUT,
        digest=digest,
    )
    parts = [
        f"# {escape(config.export.name)}\n\n{about}",
        f"## How it was made\n\n{_funnel(funnel)}",
        f"## Thresholds\n\n{_thresholds(config)}",
        f"## What was not run\n\n{_skipped(funnel)}",
        f"## What is missing\n\n{_missing(missing)}",
        f"## Columns\n\n{_columns()}",
        f"## How to load it\n\n{_LOAD}{_LOAD_IMAGES if images else ''}".rstrip(),
        f"## Rights\n\n{_RIGHTS.format(contact=_contact(config.export.contact))}",
    ]
    return front(config, rows(files)) + "\n" + "\n\n".join(parts) + "\n"


def front(config: Config, pairs: int) -> str:
    """Return the YAML front matter between its two lines of dashes."""
    facts = {
        "pretty_name": _line(config.export.name),
        "license": _line(config.export.license),
        "language": ["zh"],
        "size_categories": [category(pairs)],
        "task_categories": ["image-to-text", "zero-shot-image-classification"],
        "tags": ["image-text", "common-crawl"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "**/*.parquet"}]}],
    }
    return f"---\n{yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)}---\n"


def category(pairs: int) -> str:
    """Return the Hub's size class of so many pairs, e.g. "10K<n<100K"."""
    return _SIZES[bisect_right([10**power for power in range(3, 13)], pairs)]


def escape(text: str) -> str:
    """Return the text as one line that Markdown shows as it is: no heading, cell, link, tag or formula."""
    return re.sub(r"([\\`*_{}\[\]<>()#|!~&$])", r"\\\1", _line(text))


def options(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield each option of the recipe with its value as text; the user's own lists are not named by path."""
    for name, field in type(section).model_fields.items():
        value, path = getattr(section, name), f"{prefix}{name}"
        if _local(field) or path in _ELSEWHERE:
            continue
        if isinstance(value, BaseModel):
            yield from options(value, f"{path}.")
        else:
            own = path in (*LISTS, "dedup.earlier") and value not in (None, BUILTIN, [])
            yield path, "own list" if own else _value(value)


def _local(field: FieldInfo) -> bool:
    return isinstance(field.json_schema_extra, dict) and bool(field.json_schema_extra.get("local"))


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_value(item) for item in value)
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return escape(str(value))


def _line(text: str) -> str:
    return " ".join(text.split())


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    cells = [heads, ["---:" if head.startswith(">") else "---" for head in heads], *lines]
    return "\n".join("| " + " | ".join(cell.lstrip(">") for cell in line) + " |" for line in cells)


def _funnel(funnel: Sequence[FunnelRow]) -> str:
    heads = ["step", ">pairs left", ">dropped", ">share", ">paper: left", ">paper: dropped", ">paper: share"]
    lines = [[f"`{row.step}`", *_counts(row), *_numbers(row.paper_left, row.paper_dropped)] for row in funnel]
    return (
        "Each step drops the pairs that it rejects and hands the others on; a share is of the pairs that\n"
        f"reached the step. The paper's counts are those of its Table 6.\n\n{_table(heads, lines)}"
    )


def _counts(row: FunnelRow) -> list[str]:
    if row.state == "not run":
        return ["not run", "", ""]
    left, dropped, share = _numbers(row.left, row.dropped)
    return [left, f"rewrites {dropped}", ""] if row.state == "rewrite" else [left, dropped, share]


def _numbers(left: int | None, dropped: int | None) -> list[str]:
    counts = ["" if count is None else f"{count:,}" for count in (left, dropped)]
    reached = (left or 0) + (dropped or 0)
    return [*counts, f"{100 * dropped / reached:.2f} %" if dropped is not None and reached else ""]


def _thresholds(config: Config) -> str:
    lines = [[f"`{name}`", value] for name, value in options(config)]
    return "`null` switches an option off; the toolkit's docs/configuration.md says what each one means.\n\n" + _table(
        ["option", "value"], lines
    )


def _skipped(funnel: Sequence[FunnelRow]) -> str:
    steps = [f"`{row.step}`" for row in funnel if row.state == "not run"]
    if not steps:
        return "Every step of the recipe was run."
    return f"The pairs that these steps would reject are still here: {', '.join(steps)}."


def _missing(shards: Sequence[int]) -> str:
    if not shards:
        return "Nothing: all shards of the input are here."
    return (
        f"Missing shards: {len(shards):,}. They failed and were set aside (`allow_missing: true`), and\n"
        "near-duplicates were sought without them; manifest.json names them under `missing`."
    )


def _columns() -> str:
    lines = [[f"`{c.name}`", str(c.type), c.unit, escape(c.doc)] for c in COLUMNS if c.stage == "export"]
    return _table(["column", "dtype", "unit", "meaning"], lines)


def _contact(contact: str | None) -> str:
    if contact is None:
        return "No contact was configured (`export.contact`): who publishes this dataset must name one here."
    return f"Write to: {escape(contact)}"
