"""A run folder on a cluster as far as a test wants it: marks, failures, records and logs written by hand."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import yaml

from toolkit.config import load
from toolkit.recipe import BY_NAME
from toolkit.run.failures import Failure
from toolkit.run.ledger import Mark
from toolkit.run.records import Record
from toolkit.run.run import Run, create, open_run

SOURCE = BY_NAME["source"]
NOON = 1_780_000_000  # seconds since 1970
NOW = datetime.fromtimestamp(NOON, UTC).isoformat(timespec="seconds")


def begun(folder: Path, shards: int = 12, kind: str = "slurm", batches: int = 1, **site: Any) -> Run:
    """Make a run of so many shards that nobody has worked on."""
    table = folder / "table"
    table.mkdir(parents=True)
    for shard in range(shards):
        (table / f"{shard:04d}.csv").write_text("url,text\n")
    (folder / "hosts.txt").write_text("bad.example\n")
    tree = {
        "run_dir": str(folder / "run"),
        "batches": batches,
        "input": {"kind": "table", "paths": [str(table / "*.csv")], "files_per_shard": 1},
        "source": {"blacklist": str(folder / "hosts.txt")},
        "fetch": {"resolve": {"*.example.test": "127.0.0.1:9"}},
        "executor": {"kind": kind, "retries": 2, "site": site},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(tree))
    create(load(str(path))).free()
    return open_run(folder / "run")


def done(run: Run, unit: int, ended: int = NOON, seconds: float = 60.0, job: str | None = None) -> None:
    """Leave the mark of a finished unit of source."""
    started = datetime.fromtimestamp(ended - seconds, UTC).isoformat(timespec="seconds")
    facts = {"host": "n1", "attempt": f"{unit:06d}.n1-7-0", "job": job, "started": started, "seconds": seconds}
    mark = Mark(
        stage=SOURCE.folder,
        unit=unit,
        version=SOURCE.version,
        outputs=[],
        inputs={},
        rows_in=10,
        rows_out=5,
        facts=facts,
    )
    write(run.layout.mark(SOURCE, unit), msgspec.json.encode(mark))


def failed(run: Run, unit: int, attempts: int = 1, reason: str = "it broke", **more: Any) -> Failure:
    """Leave the record of a failed unit of source."""
    failure = Failure(unit=unit, attempts=attempts, time=more.pop("time", NOW), reason=reason, **more)
    write(run.layout.failure(SOURCE, unit), msgspec.json.encode(failure))
    return failure


def submitted(run: Run, job: int, units: str, tasks: int, stage: str = "source", settled: bool = False) -> Record:
    """Leave the record of a submission."""
    record = Record(job=job, stage=stage, units=units, tasks=tasks, submitted=NOW, settled=settled)
    write(run.layout.job(job), msgspec.json.encode(record))
    return record


def write(path: Path, text: bytes) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text)


def fake(folder: Path, **answers: str) -> dict[str, str]:
    """Put commands on the PATH that print an answer and note that they were called."""
    folder.mkdir()
    for command, answer in answers.items():
        path = folder / command
        (folder / f"{command}.txt").write_text(answer)
        path.write_text(f'#!/bin/sh\necho {command} >> "{folder}/calls"\ncat "{folder}/{command}.txt"\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


def calls(folder: Path) -> list[str]:
    """Return the commands that were called, in order."""
    path = folder / "calls"
    return path.read_text().split() if path.exists() else []
