"""One seed: a run driven through faults until it is done, and everything that must hold at each step of it.

A play copies a finished run, takes back some stages, and drives them `inline` in this process. A crash is an exception
that nobody catches and a disk that no longer answers; then the run is opened anew, as another start of the command
would. Between two calls to the disk another attempt at the same unit may do some of its own: the rival, on another
host, which may die, or go on when all others have published (a zombie). The same seed makes the same play.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import re
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any
from unittest import mock

from tests.chaos.disk import Crash, Disk, Reading
from tests.crawl import tree
from toolkit.config import Config
from toolkit.data.stage import Stage, Stopped
from toolkit.dedup import ring
from toolkit.dedup import stage as dedup
from toolkit.dedup.screens import choice
from toolkit.demo import show
from toolkit.errors import UserError, WorkError
from toolkit.recipe import STAGES
from toolkit.run import clock, executors, files, signals
from toolkit.run.drive import drive
from toolkit.run.ledger import read_mark
from toolkit.run.run import Run, create, open_run
from toolkit.run.task import attempt
from toolkit.run.verify import repair, verify

PAIRS = 40
STARTS = 25  # starts of the command after which a play that is not done is lost; faults end long before
CRASHES = ("crash before", "crash after")
FATES = (*CRASHES, "error", "full", "lie", "short", "signal", "rival", "jump", "read error", "rot", "rotten part")
# Calls at which a fate means something; at others it waits for the next that it fits. Those not named fit all.
FITS = {"lie": ("link", "move"), "short": ("write",), "full": ("create", "write", "make", "link")}
BLOCK_ROWS = 8  # so that a join has several blocks, and the ledger of finished tiles several parts
FULL_CALLS = 12  # calls for which a full disk stays full


class Broken(AssertionError):
    """A promise was broken."""


@dataclass
class Scene:
    """What all plays share: a finished run without faults, and how many points each of its stages has."""

    config: Config
    reference: Path
    published: dict[str, str] = field(default_factory=dict)
    points: Counter[str] = field(default_factory=Counter)
    reads: Counter[str] = field(default_factory=Counter)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of the run."""
        return open_run(self.reference).stages


@contextmanager
def prepared() -> Iterator[Scene]:
    """Make a small crawl, serve it on loopback, run it without faults, and count its points.

    In memory where the machine allows it: a play changes the disk a thousand times.
    """
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        crawl, reference = Path(folder) / "crawl", Path(folder) / "reference"
        show.crawl(crawl, PAIRS, 1, lambda rows: None)
        with show.served(crawl) as port:
            scene = Scene(_inline(show.recipe(crawl, reference, port, None)), reference)
            with Play(scene, 0).installed() as play:
                play.root, play.acting = reference, True
                assert drive(create(scene.config), Quiet(play)).complete
            scene.points, scene.reads, scene.published = play.calls, play.opened, tree(reference, skip=("30_fetch",))
            assert not list(verify(open_run(reference)))
            yield scene


def _inline(config: Config) -> Config:
    executor = config.executor.model_copy(update={"kind": "inline", "retries": 0})
    source = config.input.model_copy(update={"files_per_shard": 2})
    return config.model_copy(update={"executor": executor, "input": source})


class Quiet:
    """Remembers what was said to be done."""

    def __init__(self, play: Play) -> None:
        self.play = play

    def begin(self, stage: Stage, todo: int, done: int, rows: int) -> None:
        self.play.now = stage.folder

    def rows(self, stage: Stage, rows: int) -> None: ...

    def unit(self, stage: Stage) -> None: ...

    def failed(self, stage: Stage, unit: int, reason: str, last: bool) -> None:
        if found := re.search("the checkpoint (.*) is damaged; remove its folder", reason):
            self.play.spoilt.add(Path(found[1]).parent)
        self.play.story.append(f"{stage.name} {unit} failed: {reason.replace(str(self.play.root), 'RUN')}")

    def end(self, stage: Stage) -> None: ...


@dataclass
class Play:
    """One seed at work."""

    scene: Scene
    seed: int
    fates: tuple[str, ...] = FATES
    only: str = ""  # the one stage to play, where it is not left to chance
    rots: str = "*"  # names of files that may rot
    story: list[str] = field(default_factory=list)
    injected: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    opened: Counter[str] = field(default_factory=Counter)
    now: str = ""

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.count = 0
        self.start = 0  # which start of the command this is
        self.dead = False
        self.full = 0
        self.time = 1_800_000_000.0
        self.done: set[tuple[str, int]] = set()
        self.rivals: list[Rival] = []
        self.current: tuple[Run, Stage, int] | None = None
        self.plan: dict[int, str] = {}
        self.due: list[str] = []  # what was planned for an earlier call, which it did not fit
        self.inodes: dict[Path, int] = {}  # of what was published
        self.reads: set[int] = set()
        self.read = 0
        self.rotten: set[Path] = set()
        self.spoilt: set[Path] = set()  # folders of checkpoints that are to be removed, as was said
        self.acting = False  # whether the command runs: what the play itself looks at does not fail
        self.root = Path()

    # What happens at a point ------------------------------------------------------------------------------------

    def at(self, call: str, path: Path) -> str | None:
        """Return what happens at this call to the disk, and let rivals have their turn."""
        rival = Rival.here()
        if rival is not None:
            return rival.at(call)
        if self.dead:
            raise Crash
        self.count += 1
        self.calls[self.now] += 1
        if call != "write":  # HDF5 writes under a lock that the rival may want
            for other in self.rivals:
                if self.rng.random() < 0.2:
                    other.turn(self.rng.randint(1, 40))
        if self.count in self.plan:
            self.due.append(self.plan.pop(self.count))
        if self.full:
            self.full -= 1
            return "full" if call in FITS["full"] else None
        fate = next((fate for fate in self.due if self._fits(fate, call)), None)
        if fate is not None:
            self.due.remove(fate)
            self._note(fate, call, path)
        return self._act(fate)

    def _fits(self, fate: str, call: str) -> bool:
        if fate == "rival":
            return call != "write" and self.current is not None
        if fate == "rotten part":
            return bool(self._parts())
        return call in FITS.get(fate, (call,))

    def _act(self, fate: str | None) -> str | None:
        if fate in ("crash before", "crash after"):
            self.dead = True
        elif fate == "full":
            self.full = FULL_CALLS
        elif fate == "signal":
            signals.ask(15)
            if self.rng.random() < 0.5:  # it comes twice, or once more after the next start has begun
                self.plan.setdefault(self.count + self.rng.randrange(1, 60), "signal")
        elif fate == "rot":
            self._rot(sorted(p for p in self.root.glob(f"*/data/**/{self.rots}") if p.is_file() and p.stat().st_size))
        elif fate == "rotten part":
            self._flip(self.rng.choice(self._parts()))
        elif fate == "jump":
            self.time += self.rng.choice((-1e6, -60.0, 60.0, 1e6))
        elif fate == "rival":
            assert self.current is not None
            self.rivals.append(Rival(self, *self.current[1:], calls=self.rng.choice((10**9, self.rng.randint(1, 60)))))
            self.rivals[-1].turn(self.rng.randint(1, 80))
        return fate

    def _rot(self, paths: list[Path]) -> None:
        """Flip a bit of a published file."""
        if paths:
            self.rotten.add(path := self.rng.choice(paths))
            self._flip(path)

    def _flip(self, path: Path) -> None:
        flip(path, self.rng)
        self.story.append(f"flipped a bit of {path.relative_to(self.root)}")

    def _parts(self) -> list[Path]:
        """Return the files of finished parts of units under way, and their records."""
        found = []
        for record in self.root.glob("*/work/*.parts-*/[0-9]*.json"):
            with suppress(ValueError, KeyError):  # it has rotted already
                names = [name for name, *_ in json.loads(record.read_bytes())["files"].values()]
                found += [record, *map(record.with_name, names)]
        return sorted(path for path in found if path.is_file() and path.stat().st_size)

    def _note(self, fate: str, call: str, path: Path) -> None:
        self.injected[fate] += 1
        self.story.append(f"start {self.start}, call {self.count} ({self.now}: {call} {path.name}): {fate}")

    def reading(self, path: Path) -> None:
        """A file is opened for reading: it may fail once."""
        if Rival.here() is None and self.acting and not self.dead:
            self.read += 1
            self.opened[self.now] += 1
            if self.read in self.reads:
                self.reads.discard(self.read)
                self._note("read error", "open", path)
                raise OSError(116, os.strerror(116), str(path))

    # What stands in for the system ------------------------------------------------------------------------------

    @contextmanager
    def installed(self) -> Iterator[Play]:
        """Put this play's disk, clock and chance in the place of the real ones."""
        with ExitStack() as stack, tempfile.TemporaryDirectory(dir=self.scene.reference.parent) as trash:
            self.disk = Disk(self.at, Path(trash), self.rng)
            put = lambda owner, name, value: stack.enter_context(mock.patch.object(owner, name, value))  # noqa: E731
            put(files, "system", self.disk)
            put(files, "token", self._token)
            put(files, "dead", self._dead)
            put(clock, "now", lambda: datetime.fromtimestamp(self.time, UTC).isoformat(timespec="seconds"))
            put(clock, "ticks", self._ticks)
            put(clock, "sleep", lambda seconds: None)
            put(executors, "attempt", self._attempt)
            put(Path, "open", self._open(Path.open))
            put(dedup, "block_rows", lambda rows: BLOCK_ROWS)
            put(ring, "SAVE_FLOPS", 0)
            put(ring, "SAVES", 10**9)
            put(choice, "PANEL_BYTES", 1)
            yield self

    def _token(self) -> str:
        who = "rival" if Rival.here() else "host"
        return f"{who}-{self.start}-{self.rng.getrandbits(32):08x}"

    def _dead(self, name: str) -> bool:
        host, _, rest = name.rpartition("-")[0].rpartition("-")
        return host == "host" and int(rest) < self.start

    def _ticks(self) -> float:
        self.time += 0.001
        return self.time

    def _attempt(self, run: Run, stage: Stage, unit: int, *rest: Any) -> None:
        self.current = (run, stage, unit)
        try:
            attempt(run, stage, unit, *rest)
        finally:
            self.current = None
        self.done.add((stage.name, unit))

    def _open(self, real: Callable[..., IO[Any]]) -> Callable[..., IO[Any]]:
        def opened(path: Path, mode: str = "r", buffering: int = -1, *rest: Any, **named: Any) -> IO[Any]:
            if mode != "rb" or not path.is_relative_to(self.root) or self.root == Path():
                return real(path, mode, buffering, *rest, **named)
            self.reading(path)
            raw = Reading(path, self.rng)
            return raw if buffering == 0 else io.BufferedReader(raw, buffering if buffering > 1 else 8192)  # type: ignore[return-value]

        return opened

    # The play ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Play it; raises Broken with the story where a promise was broken."""
        with tempfile.TemporaryDirectory(dir=self.scene.reference.parent) as folder, self.installed():
            self.root = Path(folder) / "run"
            try:
                self._run()
            except Exception as error:
                story = "\n  ".join([*self.story, f"Replay: make chaos N=1 SEED={self.seed}"])
                cause = None if isinstance(error, Broken) else error
                raise Broken(f"{type(error).__name__}: {error}\nseed {self.seed}:\n  {story}") from cause

    def _run(self) -> None:
        until = self._set()
        for self.start in range(1, STARTS + 1):
            self.acting = True
            done = self._start(until)
            self.acting = False
            if done:
                break
            self._sound()
        else:
            raise Broken(f"not done after {STARTS} starts")
        for rival in self.rivals:
            rival.turn(10**9)  # zombies: they write after all is published
        self._end(until)

    def _set(self) -> str:
        """Take stages back, and plan what happens; return the last stage to drive."""
        stages = self.scene.stages
        first = self.rng.randrange(-1, len(stages))
        last = min(len(stages) - 1, max(first, 0) + self.rng.choice((0, 0, 1, 2, len(stages))))
        if self.only:
            first = last = [stage.name for stage in stages].index(self.only)
        if first >= 0:
            gone = {s.folder for s in stages[first:]}
            shutil.copytree(self.scene.reference, self.root, ignore=lambda _, names: gone & set(names))
        calls = sum(self.scene.points[s.folder] for s in stages[max(first, 0) : last + 1])
        reads = sum(self.scene.reads[s.folder] for s in stages[max(first, 0) : last + 1])
        for _ in range(self.rng.choice((1, 1, 2, 3, 5))):
            fate = self.rng.choice(self.fates)
            if fate == "read error":
                self.reads.add(self.rng.randrange(1, reads + 1))
            else:
                self.plan.setdefault(self.rng.randrange(1, calls + 1), fate)
        self.story.append(f"stages {stages[max(first, 0)].name} to {stages[last].name}, {calls} calls without faults")
        return stages[last].name

    def _start(self, until: str) -> bool:
        """Start the command once; return whether it ended with all done."""
        self.dead, self.full = False, 0
        files.known.clear()  # of another process
        signals.reset()
        config = self.scene.config.model_copy(update={"run_dir": str(self.root)})
        while self.spoilt:
            shutil.rmtree(self.spoilt.pop())
        try:
            run = create(config)
            try:
                rots, damaged = self.injected["rot"], False
                if self.rotten:  # as `verify`, or the stage that could not read it, said to do
                    self.done.clear()
                    self.inodes.clear()
                    self.story.append(f"start {self.start} mends what has rotted")
                    damaged = any(problem.kind == "damaged" for problem in repair(run))
                    run.forget()
                outcome = drive(run, Quiet(self), until)
            finally:
                run.free()
        except Crash:
            self.story.append("crashed")
            return self._crashed()
        except (OSError, WorkError, UserError, Stopped) as error:
            said = str(error).replace(str(self.root), "RUN")
            self.story.append(f"ended with {type(error).__name__}: {said}")
            if isinstance(error, UserError) and not isinstance(error.__cause__, OSError):
                raise Broken(f"blamed the user: {error}") from error
            return False
        return outcome.complete and not damaged and self.injected["rot"] == rots

    def _crashed(self) -> bool:
        alive = any(rival.moving for rival in self.rivals)
        if not alive and self.rng.random() < 0.7:
            self.story.append("the power failed")
            self.disk.lose()
        else:
            self.disk.settle()
        return False

    # What must hold ---------------------------------------------------------------------------------------------

    def _sound(self, rotten: bool = True) -> None:
        """After every start: what was done is done, and what has a mark is whole, but for what has rotted since."""
        for stage in STAGES:
            for path in sorted((self.root / stage.folder / "done").glob("*/*.json")):
                mark = read_mark(path)
                if mark is None:
                    raise Broken(f"{path.relative_to(self.root)} is no mark")
                for output in mark.outputs:
                    published = self.root / stage.folder / "data" / output.path
                    if rotten and published in self.rotten:
                        continue
                    if not published.exists() or digest(published) != output.digest:
                        raise Broken(f"{published.relative_to(self.root)} is not what its mark says")
                    inode = published.stat().st_ino
                    if self.inodes.setdefault(published, inode) != inode:
                        raise Broken(f"{published.relative_to(self.root)} was published twice")
        for name, unit in self.done:
            stage = next(s for s in STAGES if s.name == name)
            if not (self.root / stage.folder / "done" / f"{unit // 1000:03d}" / f"{unit:06d}.json").exists():
                raise Broken(f"{name} {unit} was done and is lost")

    def _end(self, until: str) -> None:
        self._sound(rotten=False)
        folders = {s.folder for s in self.scene.stages[: [s.name for s in self.scene.stages].index(until) + 1]}
        expected = {k: v for k, v in self.scene.published.items() if k.partition("/")[0] in folders}
        found = tree(self.root, skip=("30_fetch",))
        if found != expected:
            wrong = sorted(k for k in {*found, *expected} if found.get(k) != expected.get(k))
            raise Broken(f"published bytes differ: {wrong[:5]}")
        problems = [p for p in verify(open_run(self.root)) if p.kind != "missing" or _folder(p.stage) in folders]
        if problems:
            raise Broken(f"verify: {[str(p) for p in problems][:5]}")
        dead = any(rival.died for rival in self.rivals)  # what it left, the next attempt at its unit would sweep
        left = [p for f in folders for p in (self.root / f / "work").glob("*") if not (dead and "rival" in p.name)]
        if left:
            raise Broken(f"left in work/: {[p.name for p in left][:5]}")


def _folder(stage: str) -> str:
    return next(s.folder for s in STAGES if s.name == stage)


def flip(path: Path, rng: random.Random) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    bit = rng.randrange(len(data) * 8)
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def digest(path: Path) -> str:
    """Return the digest that a mark has, by other means than the toolkit's."""
    return hashlib.blake2b(path.read_bytes(), digest_size=32).hexdigest()


class Rival:
    """Another attempt at a unit, in a thread that moves only while the play waits for it."""

    _local = threading.local()

    def __init__(self, play: Play, stage: Stage, unit: int, calls: int) -> None:
        self.play, self.stage, self.unit, self.left = play, stage, unit, calls
        self.slice = 0
        self.moving, self.died = True, False
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    @classmethod
    def here(cls) -> Rival | None:
        """Return the rival whose thread this is."""
        return getattr(cls._local, "me", None)

    def turn(self, calls: int) -> None:
        """Let it make so many calls."""
        if self.moving:
            self.slice = calls
            self._go.release()
            self._back.acquire()

    def at(self, call: str) -> str | None:
        """A point of its own: wait for the next turn where this one is over, die where its calls are used up."""
        if not self.left:
            raise Crash
        self.left -= 1
        if self.slice <= 0 and call != "write":
            self._back.release()
            self._go.acquire()
        self.slice -= 1
        return None

    def _work(self) -> None:
        Rival._local.me = self
        self._go.acquire()
        try:
            attempt(open_run(self.play.root), self.stage, self.unit)
        except (Crash, Exception) as error:
            self.died = isinstance(error, Crash)
            self.play.story.append(f"rival of {self.stage.name} {self.unit} ended: {type(error).__name__}: {error}")
        finally:
            self.moving = False
            self._back.release()
