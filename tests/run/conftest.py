"""A fake Slurm on the PATH, and runs so small that a unit takes milliseconds."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import submitit.core.utils
import yaml
from submitit.core.utils import FailedJobError

from tests import fake_slurm
from tests.fake_slurm import Slurm
from toolkit.config import load
from toolkit.run import clock, scheduler
from toolkit.run.run import Run, create

Tiny = Callable[..., Run]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """A cluster that does nothing by itself; waiting for it takes no time."""
    fake = Slurm(tmp_path / "slurm")
    for name in [n for n in os.environ if n.startswith(("SLURM", "SBATCH"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{fake.bin}:{os.environ['PATH']}")
    ticks = clock.ticks
    monkeypatch.setattr(clock, "sleep", lambda seconds: fake.slept.append(seconds) if seconds else None)
    monkeypatch.setattr(clock, "ticks", lambda: ticks() + sum(fake.slept))
    handler = signal.getsignal(signal.SIGUSR2)
    yield fake
    signal.signal(signal.SIGUSR2, handler)


@pytest.fixture
def swift(slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    """The same cluster, answering in this process: its commands need not be started."""

    def run(command: Sequence[str], **options: Any) -> SimpleNamespace:
        words = list(command[2:] if command[0] == "timeout" else command)
        if not (slurm.bin / words[0]).exists():
            raise FileNotFoundError(words[0])
        env = dict(options.get("env") or os.environ)
        code, out, err = fake_slurm.call(slurm.folder, words[0], words[1:], env)
        return SimpleNamespace(returncode=code, stdout=out, stderr=err)

    def function(command: Sequence[str], **options: Any) -> Callable[[], str]:
        def answer() -> str:
            done = run(command)
            if done.returncode:
                raise FailedJobError(done.stderr)
            return str(done.stdout)

        return answer

    monkeypatch.setattr(submitit.core.utils, "CommandFunction", function)
    monkeypatch.setattr(scheduler, "subprocess", SimpleNamespace(run=run, TimeoutExpired=subprocess.TimeoutExpired))
    return slurm


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return lambda *args, **options: make(tmp_path, *args, **options)


def make(folder: Path, shards: int = 4, site: dict[str, Any] | None = None, name: str = "run", **options: Any) -> Run:
    """Make a run under the executor slurm: a table of one row a shard, every language; nobody holds it."""
    crawl = folder / f"crawl-{shards}"
    if not crawl.exists():
        crawl.mkdir(parents=True)
        for shard in range(shards):
            (crawl / f"{shard:06d}.jsonl").write_text(
                f'{{"url": "http://a.test/{shard}.jpg", "text": "number {shard}"}}\n'
            )
    tree = {
        "run_dir": str(folder / name),
        "input": {"kind": "table", "paths": [str(crawl / "*.jsonl")], "files_per_shard": 1},
        "source": {"language": "any", "blacklist": None},
        "executor": {"kind": "slurm", "retries": 2, "site": {"backoff_s": 60, **(site or {})}},
    } | options
    path = folder / f"config-{abs(hash(name))}.yaml"
    path.write_text(yaml.safe_dump(tree))
    run = create(load(str(path)))
    run.free()
    return run
