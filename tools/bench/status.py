"""Start-up of the command, and `status` on a run of many finished shards, the first time and with folded marks.

    python tools/bench/status.py [--shards 10000] [--repeat 5]

The run folder is real but for its data: every stage has a mark for every unit, bound to the marks before it. Prints a
markdown table for docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import yaml

from toolkit.config import load
from toolkit.data.stage import Output
from toolkit.run import files
from toolkit.run.layout import relative
from toolkit.run.ledger import Mark
from toolkit.run.run import Run, create


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
        for unit in range(run.all_units(stage)):
            inputs = run.input_digests(stage, unit)
            assert inputs is not None
            output = Output(path=relative(unit, ".parquet"), bytes=20_000_000, digest="0" * 64, rows=100_000)
            mark = Mark(
                stage=stage.folder,
                unit=unit,
                version=stage.version,
                outputs=[output],
                inputs=inputs,
                rows_in=100_000,
                rows_out=90_000,
                drops=dict.fromkeys(stage.steps, 1000),
                facts={"host": "node", "seconds": 12.5, "started": "2026-01-01T00:00:00+00:00", "attempt": "1-a"},
            )
            path = run.layout.mark(stage, unit)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(msgspec.json.encode(mark))
        run.ledger.forget(stage)
    return run


def seconds(*arguments: str, repeat: int) -> tuple[float, float]:
    """Return median and largest wall time of the command."""
    taken = []
    for _ in range(repeat):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", "toolkit", *arguments], check=True, capture_output=True)
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken), max(taken)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    print("| command | median s | largest s |\n| --- | ---: | ---: |")
    print("| `danqing --help` | {:.3f} | {:.3f} |".format(*seconds("--help", repeat=options.repeat)))
    with tempfile.TemporaryDirectory() as folder:
        run = make(Path(folder), options.shards)
        root = str(run.layout.root)
        loose = seconds("status", root, repeat=2)
        print("| `danqing status`, {:,} shards, loose marks | {:.2f} | {:.2f} |".format(options.shards, *loose))
        for stage in run.stages:
            run.ledger.fold(stage)
        folded = seconds("status", root, repeat=options.repeat)
        print("| `danqing status`, {:,} shards, folded marks | {:.2f} | {:.2f} |".format(options.shards, *folded))
        state = json.loads(
            subprocess.run(
                [sys.executable, "-m", "toolkit", "status", root, "--json"], check=True, capture_output=True
            ).stdout
        )
        assert state["complete"], "the bench's run folder is not a finished run"


if __name__ == "__main__":
    main()
