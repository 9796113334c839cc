"""`danqing demo`: make a crawl, serve it on loopback, run every stage on it, and hold the result against the truth.

No weights, and no network but loopback. Everything lies in one folder; a second call goes on where the first stopped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from toolkit.config import Config
from toolkit.config.config import canonical, check
from toolkit.demo.crawl import make
from toolkit.demo.score import Score, score
from toolkit.errors import UserError, WorkError
from toolkit.recipe import not_run
from toolkit.report.verdicts import verdicts
from toolkit.run import files
from toolkit.run.run import Run


def crawl(folder: Path, pairs: int, seed: int, advance: Callable[[int], None] = lambda pairs: None) -> dict[str, Any]:
    """Make the crawl in a folder, or find it there; return its numbers. `crawl.json`, written last, says it is whole.

    Raises UserError where the folder holds something else.
    """
    done, begun = folder / "crawl.json", folder / ".danqing-demo"
    wanted = {"pairs": pairs, "seed": seed}
    if done.exists():
        found: dict[str, Any] = json.loads(done.read_bytes())
        if {name: found[name] for name in wanted} != wanted:
            raise UserError(
                f"{folder} holds a crawl of {found['pairs']} pairs with seed {found['seed']}, not of {pairs} with seed "
                f"{seed}; give another folder."
            )
        return found
    if folder.exists() and not begun.exists() and (names := sorted(p.name for p in folder.iterdir())):
        raise UserError(f"{folder} holds {', '.join(names[:3])}; give an empty or new folder.")
    files.clear(folder)  # a demo crawl that was not finished
    files.make(folder)
    files.write(begun, b"")

    def create(path: str) -> IO[bytes]:
        target = folder / path
        files.make(target.parent)
        return files.create(target)

    summary = make(create, pairs=pairs, seed=seed, advance=advance)
    made = wanted | {"pages": summary.pages, "files": summary.files, "pictures": summary.pictures}
    files.write(done, canonical(made))
    return made


@contextmanager
def server(site: Path, root: Path, port: int = 0) -> Iterator[tuple[int, int]]:
    """Serve a site in a process of its own; yield its port and process id. It ends with this one, however that ends."""
    command = [sys.executable, "-m", "toolkit.demo.server", "--site", str(site), "--root", str(root)]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--until-eof"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line.startswith("listening on "):
            raise WorkError(f"The demo's web server did not start (it said {line!r}); is loopback available here?")
        yield int(line.rpartition(":")[2]), process.pid
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()


@contextmanager
def served(folder: Path) -> Iterator[int]:
    """Serve a crawl that `crawl` made; yield the port."""
    with server(folder / "site.json", folder / "site") as (port, _):
        yield port


def recipe(folder: Path, run_dir: Path, port: int, workers: int | None) -> Config:
    """Return the demo's configuration: the defaults, a crawl, a blacklist, and where the crawl's hosts really are."""
    tree = {
        "run_dir": str(run_dir),
        "input": {"kind": "wat", "paths": [str(folder / "wat" / "*.wat.gz")], "files_per_shard": 1},
        "batches": 2,
        "source": {"blacklist": str(folder / "hosts.txt")},
        "fetch": {"resolve": {"*.example.test": f"127.0.0.1:{port}"}},
        "executor": {"kind": "local", "workers": workers},
    }
    return check(tree, "the demo's configuration")


def judge(run: Run, folder: Path) -> Score:
    """Hold the run's verdicts against the planted truth."""
    with (folder / "truth.jsonl").open(encoding="utf-8") as file:
        return score(map(json.loads, file), verdicts(run), off=not_run(run.config))


def lines(result: Score) -> Iterator[str]:
    """Return precision and recall of every step as plain lines."""
    yield f"{'step':<22} {'planted':>8} {'dropped':>8} {'precision':>10} {'recall':>7}"
    for row in result.rows:
        if not row.ran:
            yield f"{row.step:<22} {row.planted:>8} {'not run':>8}"
        elif row.planted or row.dropped:
            ratios = f"{_ratio(row.precision):>10} {_ratio(row.recall):>7}"
            yield f"{row.step:<22} {row.planted:>8} {row.dropped:>8} {ratios}"
    yield f"clean pairs lost: {len(result.lost)} of {result.clean}"
    yield f"sets of near-duplicates with exactly one pair left: {result.sets_right} of {result.sets}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
