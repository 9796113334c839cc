"""The design's rules, held against the source text: who may import whom, write, and ask the time.

The scans read calls as they are written. They can not see a function that is passed on under another name, or what a
library does with a path that it is given (`cv2.imwrite(path)`); tables, features and tars are written through open
files, which tests/run checks.
"""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from toolkit.data.pair import schema
from toolkit.recipe import ABSENT, REWRITES, STAGES

PROJECT = Path(__file__).resolve().parents[1]
PACKAGE = PROJECT / "toolkit"
MODULES = sorted(PACKAGE.rglob("*.py"))

BASE = {"errors", "data", "config", "guard"}
STAGE_FOLDERS = {"source", "text", "fetch", "image", "embed", "dedup", "align", "export"}
# Folder or module in toolkit/ -> what it may import of the others; the version in toolkit/__init__.py is free to all.
MAY_IMPORT = {
    "errors": set(),
    "config": {"errors"},
    "guard": {"errors"},
    "data": {"errors"},
    **dict.fromkeys(STAGE_FOLDERS, BASE),
    "text": BASE | {"source"},
    "embed": BASE | {"image"},
    "align": BASE | {"dedup"},
    "demo": {"data"},  # the demo's crawl and its truth know nothing of the code that they try,
    "demo/show.py": BASE | {"recipe", "run", "report"},  # the command that tries it does
    "recipe": BASE | STAGE_FOLDERS,
    "run": BASE | STAGE_FOLDERS | {"recipe"},
    "report": BASE | STAGE_FOLDERS | {"recipe", "run"},
    "cli": BASE | STAGE_FOLDERS | {"recipe", "run", "report", "demo"},
    "__main__": {"cli"},
    "__init__": set(),
}
# dedup/node.py opens memory of a node's ranks, which is in no file system.
WRITERS = {"run/files.py", "dedup/node.py"}
# dedup/screens/cpu.py times two matrix products to choose the faster: no output depends on it.
CLOCKS = {"run/clock.py", "dedup/screens/cpu.py"}

# Methods of paths and functions of os that change a file system. `replace` and `remove` are methods of strings and
# lists too: of those only `os.replace`, `os.remove` and a `replace` with one argument are taken for a path's.
CHANGES = {
    *("write_text", "write_bytes", "unlink", "rmdir", "mkdir", "makedirs", "removedirs", "touch", "symlink"),
    *("symlink_to", "hardlink_to", "link", "rename", "renames", "fsync", "fdatasync", "sync", "truncate", "ftruncate"),
    *("chmod", "chown", "mkfifo", "mknod", "utime"),
}
OF_OS = CHANGES | {"replace", "remove"}
HEAVY = {
    *("numpy", "pyarrow", "cv2", "aiohttp", "h5py", "torch", "pydantic", "yaml", "PIL", "opencc", "rjieba", "fasttext"),
    *("fastwarc", "selectolax", "rich.progress", "datasets", "submitit", "mpi4py"),
}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def place(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(PROJECT)}:{getattr(node, 'lineno', 0)}"


def part(path: Path) -> str:
    """The folder or module of toolkit/ that a file belongs to, or the file where it has a rule of its own."""
    inside = path.relative_to(PACKAGE)
    return inside.as_posix() if inside.as_posix() in MAY_IMPORT else inside.parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Every imported name, those within functions too, as a dotted path."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they lead"
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str, str]]:
    """Every call with what it is called on, as source text or "", and its name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node, ast.unparse(node.func.value), node.func.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node, "", node.func.id


def wrong_imports(path: Path, tree: ast.Module) -> Iterator[str]:
    own = part(path)
    for node, name in imports(tree):
        root, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        inside = bool(other) and ((PACKAGE / other).is_dir() or (PACKAGE / f"{other}.py").is_file())
        if root == "toolkit" and inside and other not in MAY_IMPORT[own] | {own.partition("/")[0]}:
            yield f"{place(path, node)} imports {name}"


def writes(path: Path, tree: ast.Module) -> Iterator[str]:
    for node, name in imports(tree):
        module, _, what = name.partition(".")
        if module in ("shutil", "tempfile") or (module == "os" and what in OF_OS):
            yield f"{place(path, node)} imports {name}"
    for node, on, name in calls(tree):
        if changes(node, on, name):
            yield f"{place(path, node)} calls {ast.unparse(node)}"


def changes(node: ast.Call, on: str, name: str) -> bool:
    """Whether a call writes, or opens for writing."""
    if on == "files":  # the door itself
        return False
    if on == "os":
        return name in OF_OS or (name in ("open", "fdopen") and not reads(node))
    if name in ("open", "fdopen"):
        return any(re.fullmatch("[rwxabt+]*[wxa+][rwxabt+]*", mode) for mode in texts(node))
    return name in CHANGES or (name == "replace" and len(node.args) + len(node.keywords) == 1)


def reads(node: ast.Call) -> bool:
    """Whether os.open only reads, or opens the device that forgets."""
    text = ast.unparse(node)
    return "os.devnull" in text or not re.search("O_(WRONLY|RDWR|CREAT|TRUNC|APPEND)", text)


def texts(node: ast.Call) -> list[str]:
    """The arguments of a call that are written as strings."""
    given = [*node.args, *(keyword.value for keyword in node.keywords)]
    return [a.value for a in given if isinstance(a, ast.Constant) and isinstance(a.value, str)]


def clocks(path: Path, tree: ast.Module) -> Iterator[str]:
    """Whoever imports time, or asks datetime. An event loop's own `time()` counts seconds of a time-out and is free."""
    for node, name in imports(tree):
        if name.partition(".")[0] == "time":
            yield f"{place(path, node)} imports {name}"
    for node, on, name in calls(tree):
        if name in ("now", "utcnow", "today") and on != "clock":
            yield f"{place(path, node)} calls {ast.unparse(node)}"


def own_readers(path: Path, tree: ast.Module) -> Iterator[str]:
    """Whoever reads parquet past `table.opened`, which keeps Arrow's threads away from a file."""
    for node, on, name in calls(tree):
        if name in ("ParquetFile", "read_table", "ParquetDataset") and on in ("", "pq"):
            yield f"{place(path, node)} calls {ast.unparse(node)}"


Rule = Callable[[Path, ast.Module], Iterator[str]]


@pytest.mark.parametrize(
    ("rule", "free"),
    [(wrong_imports, set()), (writes, WRITERS), (clocks, CLOCKS), (own_readers, {"data/table.py"})],
    ids=["imports", "writes", "clocks", "own_readers"],
)
def test_only_the_named_modules_may(rule: Rule, free: set[str]) -> None:
    found = [
        fault
        for path in MODULES
        if path.relative_to(PACKAGE).as_posix() not in free
        for fault in rule(path, parsed(path))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (wrong_imports, "def f():\n    from toolkit.run import files"),
        (wrong_imports, "import toolkit.cli"),
        (writes, "open(p, 'w')"),
        (writes, "p.open(mode='r+b')"),
        (writes, "tarfile.open(p, 'x')"),
        (writes, "os.open(p, os.O_WRONLY)"),
        (writes, "p.replace(q)"),
        (writes, "os.replace(p, q)"),
        (writes, "p.mkdir()"),
        (writes, "p.write_text('')"),
        (writes, "import shutil"),
        (writes, "from os import link"),
        (clocks, "from time import monotonic"),
        (clocks, "datetime.now(UTC)"),
        (own_readers, "pq.ParquetFile(file)"),
        (own_readers, "pq.read_table(file)"),
    ],
)
def test_the_scans_find_what_they_look_for(rule: Rule, text: str) -> None:
    assert len(list(rule(PACKAGE / "image" / "x.py", ast.parse(text)))) == 1


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (wrong_imports, "from toolkit import __version__\nfrom toolkit.data import table"),
        (writes, "open(p)\np.open('rb')\ntask.open('fetch', '.tar')\ntarfile.open(p, 'r:')"),
        (writes, "text.replace('a', 'b')\nrows.remove(1)\nfiles.link(p, q)"),
        (clocks, "asyncio.get_running_loop().time()"),
        (own_readers, "pq.read_schema(file)\ntable.opened(file).read()"),
    ],
)
def test_the_scans_find_nothing_else(rule: Rule, text: str) -> None:
    assert list(rule(PACKAGE / "image" / "x.py", ast.parse(text))) == []


def test_every_folder_has_its_place_in_the_order_of_imports() -> None:
    assert {part(path) for path in MODULES} == set(MAY_IMPORT)


def test_the_command_starts_without_heavy_packages() -> None:
    code = "import sys, toolkit.cli; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert HEAVY & set(done.stdout.split()) == set()


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stage_decides_the_steps_that_the_recipe_names(stage: object) -> None:
    """In the recipe's order; a stage whose verdict is no function of columns alone names its steps in its module."""
    module = importlib.import_module(stage.run.partition(":")[0])
    named = [step for step in stage.steps if step not in REWRITES]
    declared = list(getattr(module, "STEPS", ()))
    if declared:
        assert declared == named
    else:
        strings = {node.value for node in ast.walk(parsed(Path(module.__file__))) if isinstance(node, ast.Constant)}
        assert set(named) <= strings


def test_stages_stand_in_order_and_each_has_a_table() -> None:
    names = [stage.name for stage in STAGES]
    assert [stage.number for stage in STAGES] == sorted({stage.number for stage in STAGES})
    for stage in STAGES:
        columns = schema(stage.name).names
        assert ("dropped" in columns) == bool(stage.steps), stage.name
        assert set(stage.after) <= set(names[: names.index(stage.name)])
        assert all(step.partition(".")[0] in (stage.name, "source") for step in stage.steps)
    assert not set(ABSENT) & {step for stage in STAGES for step in stage.steps}


def test_every_module_says_what_it_is_for() -> None:
    assert [str(path) for path in MODULES if not ast.get_docstring(parsed(path))] == []


def test_the_readme_names_every_folder() -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    folders = sorted({path.relative_to(PACKAGE).parts[0] for path in MODULES if path.parent != PACKAGE})
    assert [name for name in folders if f"{name}/" not in text] == []


def test_no_file_names_a_place_of_one_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=False,
        cwd=PROJECT,
    )
    if listed.returncode:
        pytest.skip("this is no git checkout")
    machine = re.compile(rb"(?<![\w.>*])/(work|root)/\w")
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        path = PROJECT / name
        if path.is_file() and path != Path(__file__) and machine.search(path.read_bytes()):
            found.append(name)
    assert found == []
