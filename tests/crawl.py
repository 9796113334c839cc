"""The shared crawl as tests use it: its configuration, its server, its planted truth, and runs of the command on it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

DANQING = (sys.executable, "-m", "toolkit")


def config(folder: Path, crawl: Path, address: str, kind: str = "wat", name: str = "run", **options: Any) -> Path:
    """Write the configuration of issue 2 and return its path; the run folder is `folder/name`."""
    tree = {
        "run_dir": str(folder / name),
        "input": {"kind": kind, "paths": [str(crawl / kind / "*.gz")], "files_per_shard": 1},
        "batches": 2,
        "fetch": {"resolve": {"*.example.test": address}},
        "embed": {"encoder": "descriptor"},
        "dedup": {"distance": 0.1},
        "align": None,
        "executor": {"kind": "local", "workers": 2},
    } | options
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def danqing(*arguments: str | Path, code: int | None = 0, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command and check its exit code."""
    done = subprocess.run(
        [*DANQING, *map(str, arguments)], capture_output=True, text=True, timeout=900, check=False, **options
    )
    if code is not None:
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def start(*arguments: str | Path) -> subprocess.Popen[bytes]:
    """Start the command in a process group of its own, to be killed."""
    return subprocess.Popen(
        [*DANQING, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def alive(pid: int) -> bool:
    """Return whether a process runs; one that is dead may wait for the system to take note of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # it may end between opening and reading
        return False


def tree(run: Path, skip: Sequence[str] = ()) -> dict[str, str]:
    """Return the digest of every published file of a run, by stage folder and path."""
    found = sorted(p for p in run.glob("*/data/**/*") if p.is_file() and p.relative_to(run).parts[0] not in skip)
    return {str(p.relative_to(run)): hashlib.blake2b(p.read_bytes()).hexdigest() for p in found}


def truth(crawl: Path) -> list[dict[str, Any]]:
    """Return the planted pairs."""
    return [json.loads(line) for line in (crawl / "truth.jsonl").read_text(encoding="utf-8").splitlines()]
