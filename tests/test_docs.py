"""The pages in docs/ say what the code does: their generated parts, their links, the commands that they name, and the
files and JSON of a real run, held against them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import cv2
import h5py
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
import yaml

from tests.site import serve
from toolkit.cli import app
from toolkit.config import load
from toolkit.data.pair import schema
from toolkit.data.stage import FunnelRow, Output
from toolkit.recipe import BY_NAME
from toolkit.report import schemas
from toolkit.report.display import Lines
from toolkit.report.status import status
from toolkit.report.why import why
from toolkit.run import executors
from toolkit.run.drive import drive
from toolkit.run.failures import Failure
from toolkit.run.funnel import funnel
from toolkit.run.funnel import tree as funnel_tree
from toolkit.run.ledger import Mark
from toolkit.run.plan import plan
from toolkit.run.plan import tree as plan_tree
from toolkit.run.run import Run, create, open_run
from toolkit.run.verify import verify

PROJECT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    p for p in [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *PROJECT.glob("docs/*.md")] if p.is_file()
)
COMMANDS = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]

STAGE_TABLE = re.compile(r"^### (?P<folder>\d\d_\w+)$")


def ids(path: Path) -> str:
    return path.name


# Pages


def generator() -> Any:
    loader = SourceFileLoader("docs_tool", str(PROJECT / "tools" / "docs"))
    module = module_from_spec(spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def test_generated_parts_are_those_of_the_code() -> None:
    assert generator().stale() == [], "run tools/docs"


def test_a_generated_part_that_differs_is_found() -> None:
    tool = generator()
    page = "before\n<!-- funnel -->\nold\n<!-- /funnel -->\nafter\n"
    made = tool.render(page)
    assert made.startswith("before\n") and made.endswith("after\n") and "old" not in made
    assert tool.render(made) == made


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors that the headings of a page get."""
    seen: dict[str, int] = {}
    found = set()
    for title in re.findall(r"^#+ +(.+?)\s*$", prose(page), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        found.add(name if name not in seen else f"{name}-{seen[name]}")
        seen[name] = seen.get(name, 0) + 1
    return found


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_commands_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"(?:`|^ *\$? *|/)danqing ([a-z]+)", text, re.MULTILINE))
    assert named - COMMANDS == set()


@pytest.mark.parametrize("folder", ["toolkit", "docs", "tools"])
def test_pages_that_the_code_names_exist(folder: str) -> None:
    files = [p for p in (PROJECT / folder).rglob("*") if p.is_file() and p.suffix in ("", ".py", ".md", ".jinja")]
    named = {name for p in files for name in re.findall(r"\bdocs/(\w+\.md)\b", p.read_text(encoding="utf-8"))}
    assert [name for name in sorted(named) if not (PROJECT / "docs" / name).is_file()] == []


# A real run


@dataclass
class Tiny:
    """A finished run of a few pairs, and the same run when it stood before the stage fetch with a unit failed."""

    run: Run
    begun: dict[str, Any]
    failed: bytes

    @property
    def root(self) -> Path:
        return self.run.layout.root


def picture(seed: int) -> bytes:
    """A sharp picture of many colours, as JPEG."""
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", cv2.resize(pixels, (160, 160), interpolation=cv2.INTER_NEAREST))[1].tobytes()


def states(run: Run) -> dict[str, Any]:
    """What the commands print with --json, by command."""
    problems = [msgspec.to_builtins(problem) for problem in verify(run)]
    urls = [f"http://a.example.test/{number}.jpg" for number in range(6)]
    return {
        "status": status(run),
        "funnel": funnel_tree(funnel(run)),
        "plan": plan_tree(run, plan(run)),
        "verify": {"run_dir": str(run.layout.root), "sound": not problems, "problems": problems},
        "why": list(why(run, urls)),
    }


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiny]:
    folder = tmp_path_factory.mktemp("tiny")
    site: dict[str, dict[str, Any]] = {}
    rows = []
    for number in range(6):
        url = f"http://a.example.test/{number}.jpg"
        rows.append({"url": url, "text": f"公园里的小狗和孩子在草地上玩耍{number}", "page": "http://p.example.test/"})
        if number < 4:
            (folder / f"{number}.jpg").write_bytes(picture(min(number, 2)))  # the last two are one picture
            site[url] = {"file": f"{number}.jpg", "status": 200, "type": "image/jpeg"}
    lines = [json.dumps(row, ensure_ascii=False) for row in [*rows, rows[0]]]
    (folder / "pairs.jsonl").write_text("\n".join([*lines, "no row"]), encoding="utf-8")
    (folder / "hosts.txt").write_text("bad.example\n")
    with serve(site, folder) as server:
        tree = {
            "run_dir": str(folder / "run"),
            "input": {"kind": "table", "paths": [str(folder / "pairs.jsonl")]},
            "source": {"language": "any", "blacklist": str(folder / "hosts.txt")},
            "text": {"min_entropy": None},
            "hosts": {"robots": False},
            "fetch": {"resolve": {"*.example.test": server.address}},
            "executor": {"kind": "inline"},
        }
        (folder / "tiny.yaml").write_text(yaml.safe_dump(tree))
        run = create(load(str(folder / "tiny.yaml")))
        assert drive(run, Lines(run), "text").complete
        executors.note(run, BY_NAME["fetch"], 0, ValueError("for this test"))
        failed = run.layout.failure(BY_NAME["fetch"], 0).read_bytes()
        begun = states(open_run(run.layout.root))
        assert drive(run, Lines(run)).complete
        yield Tiny(open_run(run.layout.root), begun, failed)


SCHEMAS = {
    "status": schemas.Status,
    "funnel": list[FunnelRow],
    "plan": schemas.Plan,
    "verify": schemas.Proof,
    "why": list[schemas.Story],
}


def fits(tree: Any, kind: Any) -> None:
    """Check that a tree, through JSON as a reader gets it, has the type's fields and no others."""
    found = json.loads(json.dumps(tree))
    assert json.loads(msgspec.json.encode(msgspec.convert(found, kind))) == found


@pytest.mark.parametrize("command", SCHEMAS)
def test_json_of_a_command_is_as_documented(tiny: Tiny, command: str) -> None:
    done = states(tiny.run)
    assert done["status"]["complete"] and done["verify"]["sound"] and done["why"][0]["dropped"] is None
    fits(done[command], SCHEMAS[command])
    fits(tiny.begun[command], SCHEMAS[command])


def test_json_of_an_unfinished_run_fills_every_list(tiny: Tiny) -> None:
    """Or the test above would prove nothing about their entries."""
    assert tiny.begun["status"]["failed"] and tiny.begun["status"]["damage"] and tiny.begun["verify"]["problems"]


def test_json_that_is_not_as_documented_is_found(tiny: Tiny) -> None:
    state = tiny.begun["status"]
    for wrong in ({**state, "more": 1}, {**state, "shards": "1"}, {k: v for k, v in state.items() if k != "stages"}):
        with pytest.raises((AssertionError, msgspec.ValidationError)):
            fits(wrong, schemas.Status)


def test_marks_are_as_documented(tiny: Tiny) -> None:
    marks = sorted(tiny.root.glob("*/done/*/*.json"))
    assert len(marks) == sum(tiny.run.all_units(stage) for stage in tiny.run.stages)
    for path in marks:
        fits(json.loads(path.read_bytes()), Mark)


def test_files_of_a_run_are_as_documented(tiny: Tiny) -> None:
    root, export = tiny.root, tiny.root / "90_export" / "data"
    head = yaml.safe_load((root / "run.yaml").read_text())
    assert set(head) == {"digest", "shards", "toolkit", "versions", "config"}
    assert [len(json.loads(line)) for line in (root / "inputs.jsonl").read_text().splitlines()] == [2]
    fits(json.loads((root / "funnel.json").read_bytes()), list[FunnelRow])
    fits(json.loads(tiny.failed), Failure)
    page = (PROJECT / "docs" / "formats.md").read_text(encoding="utf-8")
    section = page.partition("- **done.parquet**")[2].partition("\n- **")[0]
    for stage in tiny.run.stages:
        for column in pq.read_schema(root / stage.folder / "done.parquet"):
            kind = column.name.partition(".")[0]
            numbers = {"mark": pa.string(), "seconds": pa.float64()}.get(kind, pa.int64())
            assert column.type == (pa.binary(32) if kind in ("digest", "living", "input") else numbers)
            assert f"`{kind}`" in section or f"`{kind}.ST" in section
    manifest = json.loads((export / "manifest.json").read_bytes())
    assert set(manifest) == {"config", "files", "missing", "toolkit", "totals"}
    fits(manifest["files"], list[Output])


def test_tables_and_features_are_as_documented(tiny: Tiny) -> None:
    page = (PROJECT / "docs" / "formats.md").read_text(encoding="utf-8")
    for stage in tiny.run.stages:
        for path in (tiny.root / stage.folder / "data").rglob("*.parquet"):
            found = pq.read_schema(path)
            assert found.names == schema(stage.name).names
            section = page.partition(f"### {stage.folder}\n")[2].partition("\n###")[0]
            assert re.findall(r"^\| `(\w+)`", section, re.MULTILINE) == found.names
    (path,) = (tiny.root / "50_embed").rglob("*.h5")
    with h5py.File(path) as file:
        names = {f"/{name}" for name in file} | {f"attribute `{name}`" for name in file.attrs}
        documented = page.partition("## Features\n")[2].partition("\n## ")[0]
        assert [name for name in names if f"| `{name}` |" not in documented and f"| {name} |" not in documented] == []


PLACES = {
    "STAGE": r"\d\d_[a-z]+",
    "GROUP": r"\d{3}",
    "UNIT": r"\d{6}",
    "SHARD": r"\d{6}",
    "ATTEMPT": r"\d{6}\.\w+-\d+-[0-9a-f]{8}",
    "KEY": r"[0-9a-f]{16}",
    "OPTION": r"[a-z]+\.[a-z]+",
}


def test_every_file_of_a_run_stands_in_the_tree(tiny: Tiny) -> None:
    page = (PROJECT / "docs" / "formats.md").read_text(encoding="utf-8")
    block = page.partition("## A run folder")[2].partition("```text\n")[2].partition("```")[0]
    patterns = []
    for line in block.splitlines():
        words = [PLACES.get(word, re.escape(word)) for word in re.split("([A-Z]+)", line.partition("  ")[0])]
        patterns.append("".join(words) + (".*" if words[-1].endswith("/") else ""))
    found = [path.relative_to(tiny.root).as_posix() for path in tiny.root.rglob("*") if path.is_file()]
    assert len(found) > 30
    assert [name for name in found if not any(re.fullmatch(pattern, name) for pattern in patterns)] == []
