"""A mount that fails on a plan, as tests use it: started, ended and looked at from outside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("fuse3", "libfuse3-3")
PATIENCE_S = 240  # for the file system to end, however loaded the machine is


class Refused(Exception):
    """This machine does not let us mount."""


class Mount:
    """The file system of passthrough.py in a process of its own: `folder/below` is shown at `folder/mount`."""

    def __init__(
        self,
        folder: Path,
        seed: int = 0,
        changes: Mapping[int, str] | None = None,
        reads: Mapping[int, str] | None = None,
    ) -> None:
        self.path, self._folder = folder / "mount", folder
        self._plan = {"seed": seed, "changes": changes or {}, "reads": reads or {}}

    def __enter__(self) -> Mount:
        (self._folder / "journal").unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.fuse.passthrough", str(self._folder), json.dumps(self._plan)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=PROJECT)
        assert self._process.stdout is not None and self._process.stderr is not None
        if self._process.stdout.readline() != "ready\n":
            said = self._process.stderr.read().splitlines() or ["nothing was said"]
            self._end()
            raise Refused(said[-1])
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process.returncode is None:
            self._end()
        if self._process.returncode and error is None:
            raise RuntimeError(f"the file system ended with {self._process.returncode}: {self._said}")

    def fail(self) -> None:
        """Let the power fail."""
        self._end("power\n")

    def _end(self, order: str = "") -> None:
        """Unmount, whatever state the mount is in; leave no process."""
        try:
            _, self._said = self._process.communicate(order, timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            _, self._said = self._process.communicate()
        finally:
            if str(self.path) in Path("/proc/self/mountinfo").read_text():
                unmount(self.path)

    def journal(self) -> list[list[str]]:
        """Return the calls that changed something, and those that something happened to: count, call, path, fate."""
        return [line.split("\t") for line in (self._folder / "journal").read_text().splitlines()]


def ready(folder: Path) -> None:
    """Mount once; install what is missing where that is ours to do. Raises Refused."""
    folder.mkdir()
    try:
        with Mount(folder):
            return
    except Refused:
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            raise
    for argv in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(["apt-get", "-qq", *argv], env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Refused(f"apt-get {argv[0]} failed: {' '.join(done.stderr.splitlines()[-2:])}")
    with Mount(folder):
        return


def unmount(mount: Path) -> None:
    """Take a mount away at once, whoever uses it still."""
    command = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-u", "-z"]
    subprocess.run([*command, str(mount)], capture_output=True, check=False)
