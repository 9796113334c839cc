"""Start-up of the command, and `status` on runs of many finished shards, the first time and with folded marks.

    python tools/bench/status.py [--shards 10000 100000] [--repeat 3]

The run folders are real but for their data: every stage has a mark for every unit, bound to the marks before it. They
lie in the system's temporary folder: 100,000 shards are 700,000 small files, 3 GB. Prints a markdown table for
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import yaml

from toolkit.config import load
from toolkit.data.stage import Kind, Output, Stage
from toolkit.run import files
from toolkit.run.layout import relative
from toolkit.run.ledger import Mark
from toolkit.run.run import Run, create, open_run


def make(folder: Path, shards: int) -> Run:
    """Make a run folder whose every unit is marked as done."""
    crawl = files.make(folder / "crawl")
    for number in range(shards):
        (crawl / f"{number:06d}.csv").write_text("url,text\n")
    config = {
        "run_dir": str(folder / "run"),
        "input": {"kind": "table", "paths": [f"{crawl}/*.csv"], "files_per_shard": 1},
    }
    (folder / "c.yaml").write_text(yaml.safe_dump(config | {"batches": 7}))
    run = create(load(str(folder / "c.yaml")))
    for stage in run.stages:
        for unit in range(run.units(stage)):
            _finish(run, stage, unit)
        run.forget(stage)
        if stage.close:
            _finish(run, stage, run.units(stage))
            run.forget(stage)
        assert run.complete(stage), f"the bench's marks of {stage.name} do not fit each other"
    return run


def _finish(run: Run, stage: Stage, unit: int) -> None:
    """Leave the mark of a finished unit."""
    inputs = run.input_digests(stage, unit)
    assert inputs is not None
    suffixes = (".parquet", ".tar") if stage.name in ("fetch", "export") else (".parquet",)
    names = [relative(unit, suffix) for suffix in suffixes]
    outputs = [Output(path=name, bytes=20_000_000, digest=f"{unit:064x}", rows=100_000) for name in names]
    mark = Mark(
        stage=stage.folder,
        unit=unit,
        version=stage.version,
        outputs=outputs,
        inputs=inputs,
        rows_in=100_000,
        rows_out=90_000,
        living=f"{unit:032x}" if stage.name == "text" else "",
        drops=dict.fromkeys(stage.steps, 1000),
        facts={"host": "node", "seconds": 12.5, "started": "2026-01-01T00:00:00+00:00", "attempt": "1-a"},
    )
    path = run.layout.mark(stage, unit)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(mark))


def timed(*arguments: str) -> tuple[float, str]:
    """Return the wall time of the command, its start-up included, and what it printed."""
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "toolkit", *arguments], check=True, capture_output=True, text=True)
    return time.perf_counter() - begin, done.stdout


def show(what: str, taken: list[float]) -> None:
    """Print a row: the best and the worst."""
    print(f"| {what} | {min(taken):.2f} | {max(taken):.2f} |", flush=True)


def measure(folder: Path, shards: int, repeat: int) -> None:
    """Print the rows for a run of so many shards."""
    run = make(folder, shards)
    root, marks = str(run.layout.root), sum(run.all_units(stage) for stage in run.stages)
    name = f"{shards:,} shards, {marks:,} marks"
    show(f"`danqing status`, {name}, loose", [timed("status", root)[0] for _ in range(repeat)])
    begin = time.perf_counter()
    for stage in run.stages:
        run.ledger.fold(stage)
    show(f"folding the marks of all stages, {shards:,} shards", [time.perf_counter() - begin])
    show(f"`danqing status`, {name}, folded", [timed("status", root)[0] for _ in range(repeat)])
    assert json.loads(timed("status", root, "--json")[1])["complete"], "the bench's run folder is not a finished run"
    again = open_run(root)
    last = max((s for s in again.stages if s.kind is Kind.MAP), key=lambda s: len(s.after))
    begin = time.perf_counter()
    assert all(again.ready(last, unit) for unit in range(again.units(last)))
    show(f"`ready` of every unit of {last.name}, {shards:,} shards, folded", [time.perf_counter() - begin])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    print("| what | best s | worst s |\n| --- | ---: | ---: |")
    show("`danqing --help`", [timed("--help")[0] for _ in range(options.repeat)])
    for shards in options.shards:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), shards, options.repeat)
    print(f"\nlargest command: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:,.0f} MiB")


if __name__ == "__main__":
    main()
