"""The promise below Python: on a mount that fails, lies and forgets, the real command comes out the same.

Each seed is a test of its own, so pytest's last line says how to replay it: the same seed plans the same faults at the
same calls, and the story in the failure tells what they met.
"""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.play import digest
from tests.crawl import DANQING, config, danqing, tree
from tests.fuse.mount import Mount, Refused, ready
from toolkit.demo import show
from toolkit.run.ledger import read_mark
from toolkit.run.run import open_run
from toolkit.run.verify import verify

PAIRS = 40
SEEDS = 10
ENOUGH = 8  # seeds in which a harness that bites must have found a planted fault
DISTURBED = 2  # starts of the command with faults
STARTS = 5  # a run that is not done after so many is lost
PATIENCE_S = 600  # for the command to end, however loaded the machine is
CRASHES = ("kill before", "kill after", "power before", "power before", "power after", "power after")
FATES = (*CRASHES, "error", "error", "full", "lie", "lie", "short", "slow")
MARK = re.compile(r"/run/([^/]+)/done/\d+/(\d+)\.json")
ATTEMPT = re.compile(r"/run/([^/]+)/work/(\d+)\.(?!parts-)[^/]+")
REFUSED = re.compile("|".join(map(os.strerror, (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE))))
UNDONE = ("error", "full", "kill before", "power before")  # fates whose call did nothing

REPLAY = "pytest tests/fuse/test_fuse.py::test_a_seed_ends_in_the_same_bytes"

pytestmark = pytest.mark.prove


class Broken(AssertionError):
    """A promise was broken."""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder in memory, where the machine allows it, below which a mount is possible; skipped with the reason."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        try:
            ready(Path(folder) / "try")
        except Refused as error:
            pytest.skip(f"no FUSE mount on this machine: {error}")
        yield Path(folder)


@dataclass(frozen=True)
class Scene:
    """What all seeds share: a crawl that is served, a finished run outside of any mount, the calls of one inside."""

    place: Path
    crawl: Path
    port: int
    calls: Counter[str]
    reads: int

    @property
    def reference(self) -> Path:
        """The finished run."""
        return self.place / "reference"

    def config(self, folder: Path, name: str, run: Path) -> Path:
        """Write a configuration for a run in some folder."""
        source = {"kind": "wat", "paths": [str(self.crawl / "wat" / "*.gz")], "files_per_shard": 2}
        executor = {"kind": "inline", "retries": 0}
        address = f"127.0.0.1:{self.port}"
        return config(folder, self.crawl, address, name=name, run_dir=str(run), input=source, executor=executor)


@pytest.fixture(scope="module")
def scene(place: Path) -> Iterator[Scene]:
    crawl = place / "crawl"
    show.crawl(crawl, PAIRS, 1, lambda rows: None)
    with show.served(crawl) as port:
        made = Scene(place, crawl, port, Counter(), 0)
        danqing("run", made.config(place, "reference", made.reference))
        with Mount(place / "inside") as mount:
            danqing("run", made.config(place, "inside", mount.path / "run"))
            said = json.loads(danqing("verify", mount.path / "run", "--json").stdout)
        assert said["problems"] == []
        *calls, last = mount.journal()
        assert last[1] == "unmount"
        folders = (path.split("/")[2] for _, _, path, _ in calls if path.count("/") > 2)
        yield Scene(place, crawl, port, Counter(folders), int(last[0]))


def test_undisturbed_it_makes_the_same_bytes_inside(scene: Scene) -> None:
    found = tree(scene.place / "inside" / "below" / "run", skip=("30_fetch",))
    assert found
    assert found == tree(scene.reference, skip=("30_fetch",))


@dataclass
class Play:
    """One seed: the real command in a mount that fails on a plan, started again until it is done."""

    scene: Scene
    seed: int
    command: Sequence[str] = DANQING
    fates: Sequence[str] = FATES
    most: int = 4  # faults of a start
    story: list[str] = field(default_factory=list)
    injected: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.folder = Path(tempfile.mkdtemp(dir=self.scene.place, prefix=f"seed{self.seed}-"))
        self.run_folder = self.folder / "below" / "run"
        self.config = self.scene.config(self.folder, "run", self.folder / "mount" / "run")

    def run(self) -> None:
        """Play it; raises Broken with the story where a promise was broken."""
        try:
            calls, done = self._set(), False
            for start in range(1, STARTS + 1):
                disturbed = start <= DISTURBED and not done
                done = self._start(start, calls if disturbed else 0)
                if done and not disturbed:  # a disturbed start may leave something in work/ to the next
                    break
            else:
                raise Broken(f"not done after {STARTS} starts")
            self._end()
        except Broken as error:
            story = "\n  ".join(self.story)
            raise Broken(f"{error}\nseed {self.seed}:\n  {story}\nReplay: {REPLAY}[{self.seed}]") from None
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _set(self) -> int:
        """Begin with the first stages of a finished run; return the number of calls that the others make."""
        first = self.rng.randrange(-1, len(open_run(self.scene.reference).stages))
        gone = [s.folder for s in open_run(self.scene.reference).stages[max(first, 0) :]]
        if first >= 0:
            shutil.copytree(self.scene.reference, self.run_folder, ignore=lambda _, names: set(gone) & set(names))
        calls = sum(self.scene.calls[folder] for folder in gone)
        self.story.append(f"from {gone[0]} on, {calls} calls without faults")
        return calls

    def _plan(self, calls: int) -> dict[str, Any]:
        number = self.rng.randint(1, self.most)
        changes = {self.rng.randrange(1, calls + 1): self.rng.choice(self.fates) for _ in range(number)}
        reads: dict[int, str] = {}
        if self.fates is FATES:
            points = range(1, 2 + self.scene.reads * calls // sum(self.scene.calls.values()))
            short = self.rng.sample(points, min(len(points), self.rng.choice((10, 100, len(points)))))
            others = self.rng.sample(points, min(len(points), self.rng.randrange(3)))
            reads = dict.fromkeys(short, "short") | {n: self.rng.choice(("error", "slow")) for n in others}
        return {"changes": changes, "reads": reads}

    def _start(self, start: int, calls: int) -> bool:
        """Start the command once in a fresh mount; return whether it ended with all done."""
        before = marks(self.run_folder)
        plan = self._plan(calls) if calls else {}
        mount = Mount(self.folder, self.rng.getrandbits(32), **plan)
        code, errors = self._run(mount, start)
        journal = mount.journal()
        self._tell(start, journal, code, errors)
        blamed = code == 2 and not REFUSED.search(errors)
        if blamed or code not in (0, 1, 2, -9) or "Traceback" in errors or "defect of the toolkit" in errors:
            raise Broken(f"exit {code}: {errors}")
        self._sound()
        self._kept(before, journal)
        return code == 0

    def _run(self, mount: Mount, start: int) -> tuple[int, str]:
        """Run the command in the mount; return its exit code and what it said of errors."""
        argv = [*self.command, "run", str(self.config)]
        with mount:
            process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            try:
                _, errors = process.communicate(timeout=PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()  # it may wait for the mount, and ends with it
                raise Broken(f"start {start} does not end") from None
        return process.returncode, errors

    def _tell(self, start: int, journal: list[list[str]], code: int, errors: str) -> None:
        for count, call, path, fate in journal:
            if fate:
                self.injected[fate.partition(" (")[0]] += 1
                self.story.append(f"start {start}, call {count} ({call} {path}): {fate}")
        last = errors.strip().splitlines()[-1:] if code == 1 else []
        self.story.append(" ".join([f"start {start} ended with {code}", *last]))

    def _sound(self) -> None:
        """What has a mark is whole."""
        for path in marks(self.run_folder):
            mark = read_mark(path)
            if mark is None:
                raise Broken(f"{path.relative_to(self.run_folder)} is no mark")
            for output in mark.outputs:
                published = self.run_folder / mark.stage / "data" / output.path
                if not published.exists() or digest(published) != output.digest:
                    raise Broken(f"{published.relative_to(self.run_folder)} is not what its mark says")

    def _kept(self, before: dict[Path, int], journal: list[list[str]]) -> None:
        """What was done stays, is not begun again, and is not lost once another unit was begun after it."""
        now = marks(self.run_folder)
        if any(now.get(path) != inode for path, inode in before.items()):
            raise Broken("a mark that was on the disk is gone, or another")
        done = {(path.relative_to(self.run_folder).parts[0], path.stem) for path in before}
        linked: set[tuple[str, str]] = set()
        reported: set[tuple[str, str]] = set()
        for _, call, path, fate in journal:
            if call == "link" and (mark := MARK.fullmatch(path)) and fate not in UNDONE:
                linked.add((mark[1], mark[2]))
            if call == "mkdir" and (attempt := ATTEMPT.fullmatch(path)):
                if (attempt[1], attempt[2]) in done:
                    raise Broken(f"{attempt[1]} {attempt[2]} was done and was begun again")
                reported |= linked - {(attempt[1], attempt[2])}
        for stage, unit in reported:
            if not (self.run_folder / stage / "done" / unit[:3] / f"{unit}.json").exists():
                raise Broken(f"{stage} {unit} was done and is lost")

    def _end(self) -> None:
        found, expected = (tree(run, skip=("30_fetch",)) for run in (self.run_folder, self.scene.reference))
        if found != expected:
            wrong = sorted(k for k in {*found, *expected} if found.get(k) != expected.get(k))
            raise Broken(f"published bytes differ: {wrong[:5]}")
        if problems := list(verify(open_run(self.run_folder))):
            raise Broken(f"verify: {[str(p) for p in problems][:5]}")
        if left := [str(p.relative_to(self.run_folder)) for p in self.run_folder.glob("*/work/*")]:
            raise Broken(f"left in work/: {left[:5]}")


def marks(run: Path) -> dict[Path, int]:
    """Return the finished units: mark -> inode, which changes when a unit is done again."""
    return {path: path.stat().st_ino for path in run.glob("*/done/**/*.json")}


@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
def test_a_seed_ends_in_the_same_bytes(scene: Scene, seed: int) -> None:
    play = Play(scene, seed)
    play.run()
    assert play.injected


@pytest.mark.parametrize("forgotten", ["sync_file", "sync_folder"])
def test_it_finds_a_missing_fsync(scene: Scene, forgotten: str) -> None:
    planted = (
        f"from toolkit.run.files import System; System.{forgotten} = lambda *_: None; from toolkit.cli import main"
    )
    command = (sys.executable, "-c", f"{planted}; main()")
    with pytest.raises(Broken):
        for seed in range(1, ENOUGH + 1):
            Play(scene, seed, command, ("power before", "power after"), most=1).run()


def test_the_mount_forgets_what_was_not_synced(place: Path) -> None:
    """Without this the seeds would prove nothing about fsync."""

    def play(synced: bool, seed: int) -> bytes | None:
        folder = Path(tempfile.mkdtemp(dir=place))
        with Mount(folder, seed) as mount:
            file = os.open(mount.path / "one", os.O_CREAT | os.O_WRONLY)
            os.write(file, b"x" * 50)
            os.write(file, b"x" * 50)
            if synced:
                os.fsync(file)
                parent = os.open(mount.path, os.O_RDONLY)
                os.fsync(parent)
                os.close(parent)
            os.close(file)
            mount.fail()
        below = folder / "below" / "one"
        return below.read_bytes() if below.exists() else None

    assert all(play(True, seed) == b"x" * 100 for seed in range(3))
    lost = {play(False, seed) for seed in range(12)}
    assert None in lost
    assert any(found is not None and found != b"x" * 100 for found in lost)


def test_the_mount_fails_as_planned(place: Path) -> None:
    folder = Path(tempfile.mkdtemp(dir=place))
    with Mount(folder, 3, {1: "short", 2: "full", 20: "lie", 21: "error"}, {1: "short"}) as mount:
        file = os.open(mount.path / "one", os.O_CREAT | os.O_RDWR)
        size = os.write(file, b"x" * 100)
        assert size < 100
        with pytest.raises(OSError, match="No space left"):
            os.write(file, b"y")
        assert len(os.pread(file, size, 0)) < size == len(os.pread(file, 100, 0))
        for _ in range(17):
            os.fsync(file)
        with pytest.raises(OSError, match="Errno") as lie:
            os.link(mount.path / "one", mount.path / "two")
        assert lie.value.errno in (errno.EEXIST, errno.EIO, errno.ESTALE)
        assert (mount.path / "two").samefile(mount.path / "one")
        with pytest.raises(OSError, match="Errno") as error:
            os.fsync(file)
        assert error.value.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.ESTALE)
        os.close(file)
    assert not mount.path.is_mount()
