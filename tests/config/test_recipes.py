"""The configurations that are shipped: each loads, and the paper's leaves nothing to a default."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from toolkit.config import Config, load
from toolkit.config.executor import Executor

CONFIGS = Path(__file__).parents[2] / "configs"
DANQING = CONFIGS / "danqing.yaml"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_a_shipped_configuration_loads_and_names_no_path_of_a_machine(path: Path) -> None:
    """Loading looks at options only: the input files that it names are the user's, and need not be there."""
    config = load(str(path))
    assert not [p for p in (config.run_dir, *config.input.paths) if Path(p).is_absolute()]
    assert config.executor == Executor(), "where a run works belongs to the site, not to the recipe"


def options(section: BaseModel, prefix: str = "") -> Iterator[str]:
    """Yield the names of all options that belong to the recipe, "text.min_nouns"."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("local"):
            continue
        if isinstance(value, BaseModel):
            yield from options(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def named(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the names of all options that a file holds."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from named(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_the_papers_recipe_names_every_option_so_that_no_default_can_change_it() -> None:
    written = set(named(yaml.safe_load(DANQING.read_text(encoding="utf-8"))))
    assert set(options(load(str(DANQING)))) - written == set()


def test_the_papers_recipe_has_the_papers_numbers() -> None:
    """The thresholds that the paper states; what it leaves open is not checked here."""
    config: Config = load(str(DANQING))
    assert config.batches == 7
    assert (config.source.language, config.source.min_chars, config.source.max_chars) == ("zho", 5, 60)
    assert (config.text.min_nouns, config.text.max_unknown, config.text.min_entropy) == (1, 5, 6e-4)
    assert (config.image.max_aspect, config.image.min_side, config.image.min_texture) == (3, 100, 2)
    assert (config.image.min_sharpness, config.image.min_entropy) == (1000, 3)
    assert (config.dedup.distance, config.dedup.keep, config.dedup.scope) == (0.1, "centroid", "both")


def test_the_papers_recipe_says_beside_each_option_where_it_comes_from() -> None:
    """On its line, or (for two that share a remark) on the lines around it; run_dir, input and names need none."""
    lines = DANQING.read_text(encoding="utf-8").splitlines()
    free = ("run_dir:", "kind:", "paths:", "name:", "redirects:")
    bare = [
        line
        for line in lines
        if line.strip() and not line.endswith(":") and "#" not in line and not line.strip().startswith(free)
    ]
    assert bare == []
    for word in ("STATED", "INFERRED", "NOT STATED", "cross-modal encoder", "{l2: [1.06, 1.24]}"):
        assert word in "\n".join(lines)
