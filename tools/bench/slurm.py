"""Time the executor slurm on a one-machine Slurm of its own (root): python tools/bench/slurm.py [shards] [tasks].

First a run of so many shards is submitted, its jobs held, so that nothing but submitting is timed; sbatch is counted
by a wrapper on the PATH. Then the overhead of a task: an array whose tasks have one shard of one pair each, beside a
bare array of as many `true` and one of as many `python -c pass`, taking turns on the same two nodes. Markdown tables.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

CLUSTER = Path(__file__).parents[1] / "slurm_cluster"
ROUNDS = 3


def call(*words: str | Path, **variables: str) -> str:
    """Run a command to its end and return what it prints."""
    environment = os.environ | variables
    done = subprocess.run([*map(str, words)], check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return done.stdout


def counted(folder: Path) -> dict[str, str]:
    """Return a PATH on which every call of sbatch leaves a line in `folder/calls`."""
    real = shutil.which("sbatch")
    wrapper = folder / "bin" / "sbatch"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\necho sbatch >> "{folder}/calls"\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    return {"PATH": f"{wrapper.parent}:{os.environ['PATH']}"}


def recipe(folder: Path, name: str, shards: int, **site: object) -> Path:
    """Write a configuration of so many shards, one pair each."""
    inputs = folder / f"{name}-input"
    for shard in range(shards):
        path = inputs / f"{shard // 1000:03d}" / f"{shard:06d}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"url,text\nhttp://a.example.test/{shard}.jpg,一只橘猫坐在窗台上看雨 {shard}\n")
    tree = {
        "run_dir": str(folder / name),
        "input": {"kind": "table", "paths": [f"{inputs}/*/*.csv"], "files_per_shard": 1},
        "fetch": {"resolve": {"*.example.test": "127.0.0.1:9"}},
        "executor": {"kind": "slurm", "site": {"mem_gb": 1.0, **site}},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def danqing(*words: str | Path, **variables: str) -> float:
    """Run the command and return its seconds."""
    start = time.perf_counter()
    call(sys.executable, "-m", "toolkit", *words, **variables)
    return time.perf_counter() - start


def submit(folder: Path, shards: int) -> None:
    """Time submitting the first stage of a large run."""
    config = recipe(folder, "large", shards, extra=["--hold"], shards_per_task=10)
    path = counted(folder)
    first = danqing("run", config, **path)
    calls = len((folder / "calls").read_text().splitlines())
    files = len(list((folder / "large" / "jobs").iterdir()))
    held = call("squeue", "--noheader", "--array").splitlines()
    call(sys.executable, "-m", "toolkit", "cancel", folder / "large")
    print("\n| what | measured |\n| --- | ---: |")
    print(f"| `danqing run` of {shards:,} shards, from nothing to submitted | {first:.1f} s |")
    print(f"| calls of sbatch | {calls} |\n| tasks queued | {len(held):,} |\n| files in RUN/jobs | {files} |")


def bare(tasks: int, command: str) -> float:
    """Return the seconds of an array without us."""
    start = time.perf_counter()
    array = ("--array", f"0-{tasks - 1}", "--mem=512M", "--output=/dev/null")
    call("sbatch", "--wait", *array, "--wrap", command)
    return time.perf_counter() - start


def ours(folder: Path, tasks: int, turn: int) -> float:
    """Return the seconds between the first start and the last end of an array of ours, by Slurm's own books."""
    config = recipe(folder, f"small{turn}", tasks, shards_per_task=1)
    danqing("run", config, "--until", "source", "--wait")
    record = min((folder / f"small{turn}" / "jobs").glob("*.json"), key=lambda p: int(p.stem))
    times = call(
        *("sacct", "-X", "-n", "-P", "--format=Start,End", "-j", record.stem), SLURM_TIME_FORMAT="%s"
    ).splitlines()
    pairs = [tuple(map(int, line.split("|"))) for line in times]
    return float(max(end for _, end in pairs) - min(start for start, _ in pairs))


def overhead(folder: Path, tasks: int) -> None:
    """Time a task of ours beside a bare one."""
    shown = {"bare, `true`": "true", "bare, `python -c pass`": f"{sys.executable} -c pass"}
    seconds: dict[str, list[float]] = {name: [] for name in (*shown, "ours, a shard of one pair")}
    for turn in range(ROUNDS):
        for name, command in shown.items():
            seconds[name].append(bare(tasks, command))
        seconds["ours, a shard of one pair"].append(ours(folder, tasks, turn))
    print(f"\n| array of {tasks} tasks, 8 at a time | s | s a task and slot |\n| --- | ---: | ---: |")
    for name, found in seconds.items():
        median = statistics.median(found)
        print(f"| {name} | {median:.1f} | {median * 8 / tasks:.2f} |")


def main() -> None:
    """Bring a cluster up, measure, take it down."""
    shards = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    tasks = int(sys.argv[2]) if len(sys.argv) > 2 else 64
    with tempfile.TemporaryDirectory() as name:
        folder, cluster = Path(name), ("--dir", Path(name) / "slurm")
        said = call(CLUSTER, "up", *cluster, "--max-array-size", "1001")
        os.environ["SLURM_CONF"] = said.splitlines()[-1].partition("=")[2]
        try:
            submit(folder, shards)
            if tasks:
                overhead(folder, tasks)
        finally:
            call(CLUSTER, "down", *cluster)


if __name__ == "__main__":
    main()
