"""A real Slurm of two nodes for the tests of this folder."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PATIENCE_S = 300  # for one thing to happen; nothing is asserted of how long it takes
TOOL = Path(__file__).resolve().parents[2] / "tools" / "slurm_cluster"


def tool(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run tools/slurm_cluster."""
    return subprocess.run([sys.executable, TOOL, *argv], capture_output=True, text=True, timeout=1200, check=False)


@dataclass(frozen=True)
class SlurmCluster:
    """The cluster below `folder`; `env` is that of this process with SLURM_CONF, and without a Slurm of its own."""

    folder: Path
    env: dict[str, str]

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a Slurm client; the caller looks at the return code."""
        return subprocess.run(argv, env=self.env, capture_output=True, text=True, timeout=PATIENCE_S, check=False)

    def says(self, *argv: str) -> list[str]:
        """Run a Slurm client that must succeed, and return its lines."""
        done = self.run(*argv)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def submit(self, *argv: str) -> str:
        """Submit a job and return its number."""
        return self.says("sbatch", "--parsable", f"--chdir={self.folder}", *argv)[0]

    def states(self, job: str) -> list[tuple[str, str]]:
        """Return element and state of every incarnation of a job that accounting knows, the earlier first."""
        lines = self.says("sacct", "-nXPD", "-j", job, "--format=JobID,State")
        return [(element, state.split()[0]) for element, _, state in (line.partition("|") for line in lines)]

    def kill_node(self, name: str) -> None:
        """Kill a node's slurmd and every process below it."""
        self.tool("node", "kill", name)

    def start_node(self, name: str) -> None:
        """Bring a node back."""
        self.tool("node", "start", name)

    def tool(self, *argv: str) -> str:
        """Run tools/slurm_cluster on this cluster; it must succeed."""
        done = tool(*argv, "--dir", str(self.folder))
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def wait(what: Callable[[], bool]) -> None:
    """Wait until it holds."""
    end = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < end, f"not so after {PATIENCE_S} s"
        time.sleep(0.2)


def begin() -> SlurmCluster:
    """Start a cluster in a folder of its own, or skip with the reason."""
    if os.geteuid() != 0:
        pytest.skip("a Slurm of our own needs root")
    # Not tmp_path: its long names do not fit in the path of a Unix socket.
    folder = Path(tempfile.mkdtemp(prefix="danqing-"))
    done = tool("up", "--dir", str(folder))
    if "apt-get" in done.stderr:
        pytest.skip(f"Slurm is not on this machine and can not be installed: {done.stderr}")
    assert done.returncode == 0, done.stderr
    own = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    conf = done.stdout.splitlines()[-1].removeprefix("export SLURM_CONF=")
    return SlurmCluster(folder, own | {"SLURM_CONF": conf})


@pytest.fixture(scope="session")
def cluster() -> Iterator[SlurmCluster]:
    """A running cluster with MaxArraySize 11, partitions `low` and `high`, nodes n1 and n2; taken down at the end."""
    made = begin()
    try:
        yield made
    finally:
        tool("down", "--dir", str(made.folder))


@pytest.fixture(scope="session")
def slurm(cluster: SlurmCluster) -> Iterator[None]:
    """The cluster is the one that this process, and what it starts, speak to."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("SLURM")]:
            patch.delenv(name)
        patch.setenv("SLURM_CONF", cluster.env["SLURM_CONF"])
        yield
