"""A file system that passes every call to a folder below it, and fails on a plan: for whatever process writes.

It is to any program what tests/chaos/disk.py is to `files.system`: errors, lies, short reads and writes, slow calls, a
kill of the caller at any call, and loss of what was not synced when the power fails. `fsync` costs nothing and is only
remembered. What was written since the last fsync of a file may be gone, write by write, whole or in part; a name that
was given or taken since the last fsync of its folder may be as before. POSIX promises no more.

    python -m tests.fuse.passthrough FOLDER PLAN

FOLDER/below is shown at FOLDER/mount; FOLDER/journal gets a line for each call that changes something. PLAN is JSON,
{"seed": 1, "changes": {"17": "lie"}, "reads": {"3": "short"}}: what happens at which call of the two kinds, counted
from 1. A fate that does not fit the call waits for the next that it fits. The line `power` on standard input lets the
power fail; its end unmounts.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mfusepy as fuse

from tests.fuse.mount import unmount

ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.ESTALE)
READ_ERRORS = (errno.EIO, errno.ESTALE)
LIES = (errno.EEXIST, errno.EIO, errno.ESTALE)
FULL = {"create", "write", "mkdir", "link"}  # what a full disk refuses
FITS = {"lie": {"link", "rename"}, "short": {"write", "read"}, "full": FULL}  # others fit every call
FULL_CALLS = 12  # calls for which a full disk stays full
SLOW_S = 0.005
STAT = ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks", "st_atime", "st_mtime", "st_ctime")


@dataclass(frozen=True)
class Change:
    """Bytes that a call put into a file, or cut off its end, since the file was last synced."""

    offset: int
    size: int  # bytes that stand there now; 0 where the file was cut
    before: bytes  # what stood there


@dataclass
class Loose:
    """A file with changes that were not synced."""

    kept: Path
    length: int  # when it was synced
    changes: list[Change] = field(default_factory=list)


@dataclass(frozen=True)
class Undo:
    """How a change of a name goes back, if its folder is not synced before the power fails."""

    folder: Path
    back: Callable[[], Any]


class Memory:
    """What has not reached the disk yet."""

    def __init__(self, trash: Path, rng: random.Random) -> None:
        self._trash, self._rng = trash, rng
        self._kept = 0
        self._names: list[Undo] = []
        self._loose: dict[int, Loose] = {}

    def keep(self, path: Path) -> Path:
        """Hold on to a file that may lose its name."""
        self._kept += 1
        kept = self._trash / f"{self._kept}"
        os.link(path, kept)
        return kept

    def named(self, path: Path) -> None:
        """A file got a name."""
        self._names.append(Undo(path.parent, lambda: path.unlink(missing_ok=True)))

    def unnamed(self, path: Path, kept: Path) -> None:
        """A file lost its name, or another took it."""

        def back() -> None:
            if path.parent.is_dir():
                path.unlink(missing_ok=True)
                os.link(kept, path)

        self._names.append(Undo(path.parent, back))

    def made(self, path: Path) -> None:
        """A folder was made."""
        self._names.append(Undo(path.parent, lambda: shutil.rmtree(path, ignore_errors=True)))

    def unmade(self, path: Path) -> None:
        """A folder was removed."""

        def back() -> None:
            if path.parent.is_dir():
                path.mkdir(exist_ok=True)

        self._names.append(Undo(path.parent, back))

    def changes(self, path: Path) -> Loose:
        """Return what was done to a file since it was synced."""
        found = path.stat()
        if found.st_ino not in self._loose:
            self._loose[found.st_ino] = Loose(self.keep(path), found.st_size)
        return self._loose[found.st_ino]

    def dirty(self, inode: int) -> bool:
        """Return whether a file was written and not synced."""
        return inode in self._loose and bool(self._loose[inode].changes)

    def synced(self, inode: int) -> None:
        """A file has reached the disk."""
        if loose := self._loose.pop(inode, None):
            loose.kept.unlink()

    def synced_folder(self, path: Path) -> None:
        """The names in a folder have reached the disk."""
        self._names = [undo for undo in self._names if undo.folder != path]

    def lose(self) -> None:
        """Let the power fail: each name and each write goes back by its own chance."""
        for undo in reversed(self._names):
            if self._rng.random() < 0.5:
                undo.back()
        for loose in self._loose.values():
            if self._rng.random() < 0.7:
                self._tear(loose)

    def _tear(self, loose: Loose) -> None:
        held = [self._held(change) for change in loose.changes]
        with loose.kept.open("r+b") as file:
            for change, size in zip(reversed(loose.changes), reversed(held), strict=True):
                file.seek(change.offset + size)
                file.write(change.before.ljust(change.size, b"\0")[size:])
            file.truncate(_length(loose, held))

    def _held(self, change: Change) -> int:
        """Return how much of a write the disk has: all, some, or nothing."""
        return change.size if self._rng.random() < 0.5 else self._rng.randrange(change.size + 1)


def _length(loose: Loose, held: list[int]) -> int:
    """Return the length of a file of whose changes the disk has so much; what was cut off is there again."""
    changes = zip(loose.changes, held, strict=True)
    ends = [change.offset + (size if change.size else len(change.before)) for change, size in changes]
    return max([loose.length, *ends])


class PassThrough(fuse.Operations):
    """The calls of a file system. Paths are those in the mount, `below` makes them real; `fh` are real descriptors."""

    use_ns = True

    def __init__(self, folder: Path, plan: dict[str, Any]) -> None:
        self._below, self._mount = folder / "below", folder / "mount"
        self._rng = random.Random(plan["seed"])
        self._changes = {int(count): fate for count, fate in plan["changes"].items()}
        self._reads = {int(count): fate for count, fate in plan["reads"].items()}
        self._count = self._read = self._full = 0
        self._memory = Memory(folder / "trash", self._rng)
        self._journal = (folder / "journal").open("a", buffering=1)
        self._lock = threading.Lock()  # of the caller's thread and the one that waits for `power`

    # What happens at a call -------------------------------------------------------------------------------------

    def _due(self, plan: dict[int, str], count: int, call: str) -> str | None:
        for number in sorted(n for n in plan if n <= count):
            if call in FITS.get(plan[number], {call}):
                return plan.pop(number)
        return None

    def _fate(self, call: str) -> str | None:
        self._count += 1
        if self._full:
            self._full -= 1
            return "full" if call in FULL else None
        fate = self._due(self._changes, self._count, call)
        if fate == "full":
            self._full = FULL_CALLS
        return fate

    def _change(self, call: str, path: str, work: Callable[[bool], Any]) -> Any:
        """Do the work, told whether to do but some of it, with what the plan says before or after it."""
        with self._lock:
            fate = self._fate(call)
            if fate in ("error", "full"):
                self._note(call, path, fate)
                raise _error(errno.ENOSPC if fate == "full" else self._rng.choice(ERRORS))
            if fate in ("kill before", "power before"):
                self._crash(call, path, fate)
            if fate == "slow":
                time.sleep(SLOW_S)
            result = work(fate == "short")
            if fate in ("kill after", "power after"):
                self._crash(call, path, fate)
            self._note(call, path, fate or "")
            if fate == "lie":  # NFS: the answer was lost, the work is done
                raise _error(self._rng.choice(LIES))
            return result

    def _reading(self, call: str, path: str, work: Callable[[bool], Any]) -> Any:
        with self._lock:
            self._read += 1
            fate = self._due(self._reads, self._read, call)
            if fate:
                self._note(call, path, f"{fate} (read {self._read})")
            if fate == "error":
                raise _error(self._rng.choice(READ_ERRORS))
            if fate == "slow":
                time.sleep(SLOW_S)
            return work(fate == "short")

    def _note(self, call: str, path: str, fate: str) -> None:
        self._journal.write(f"{self._count}\t{call}\t{path}\t{fate}\n")

    def _crash(self, call: str, path: str, fate: str) -> None:
        """Kill the caller; where the power fails, this file system ends too."""
        self._note(call, path, fate)
        caller = fuse.fuse_get_context()[2]
        assert caller not in (0, os.getpid(), os.getppid())
        os.kill(caller, signal.SIGKILL)
        if fate.startswith("power"):
            self._off()
        raise _error(errno.EIO)

    def _off(self) -> None:
        try:
            self._memory.lose()
        except Exception:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    def obey(self) -> None:
        """Wait for orders on standard input, in a thread."""
        for line in sys.stdin:
            if line == "power\n":
                with self._lock:
                    self._off()
        with self._lock:
            self._journal.write(f"{self._read}\tunmount\t/\t\n")
            unmount(self._mount)
            os._exit(0)

    def below(self, path: str) -> Path:
        """Return the path of the real file."""
        return self._below / path.lstrip("/")

    # Calls that change something --------------------------------------------------------------------------------

    def create(self, path: str, mode: int, flags: int = 0) -> int:
        def work(_: bool) -> int:
            real = self.below(path)
            new = not real.exists()
            file = os.open(real, flags | os.O_CREAT, mode)
            if new:
                self._memory.named(real)
                self._memory.changes(real)
            return file

        return int(self._change("create", path, work))

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        def work(short: bool) -> int:
            part = data[: self._rng.randint(1, len(data))] if short else data
            real = Path(f"/proc/self/fd/{fh}").resolve()
            loose, before = self._memory.changes(real), _peek(real, len(part), offset)
            done = os.pwrite(fh, part, offset)
            loose.changes.append(Change(offset, done, before))
            return done

        return int(self._change("write", path, work))

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        def work(_: bool) -> int:
            real, size = self.below(path), self.below(path).stat().st_size
            loose, before = self._memory.changes(real), _peek(real, max(0, size - length), length)
            os.truncate(real, length)
            loose.changes.append(Change(min(size, length), max(0, length - size), before))
            return 0

        return int(self._change("truncate", path, work))

    def flush(self, path: str, fh: int) -> int:
        """close(2) may tell of an error that came after the write; not where nothing is left to be written."""
        if not self._memory.dirty(os.fstat(fh).st_ino):
            return 0
        return int(self._change("flush", path, lambda _: 0))

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        return int(self._change("fsync", path, lambda _: self._memory.synced(os.fstat(fh).st_ino) or 0))

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        folder = self.below(path)
        return int(self._change("fsyncdir", path, lambda _: self._memory.synced_folder(folder) or 0))

    def link(self, target: str, source: str) -> int:
        """Give `source` the name `target`."""

        def work(_: bool) -> int:
            os.link(self.below(source), self.below(target))
            self._memory.named(self.below(target))
            return 0

        return int(self._change("link", target, work))

    def rename(self, old: str, new: str) -> int:
        def work(_: bool) -> int:
            source, target = self.below(old), self.below(new)
            kept, over = self._memory.keep(source), self._memory.keep(target) if target.exists() else None
            source.rename(target)
            self._memory.unnamed(source, kept)
            if over is None:
                self._memory.named(target)
            else:
                self._memory.unnamed(target, over)
            return 0

        return int(self._change("rename", new, work))

    def unlink(self, path: str) -> int:
        def work(_: bool) -> int:
            kept = self._memory.keep(self.below(path))
            self.below(path).unlink()
            self._memory.unnamed(self.below(path), kept)
            return 0

        return int(self._change("unlink", path, work))

    def mkdir(self, path: str, mode: int) -> int:
        def work(_: bool) -> int:
            self.below(path).mkdir(mode)
            self._memory.made(self.below(path))
            return 0

        return int(self._change("mkdir", path, work))

    def rmdir(self, path: str) -> int:
        def work(_: bool) -> int:
            self.below(path).rmdir()
            self._memory.unmade(self.below(path))
            return 0

        return int(self._change("rmdir", path, work))

    # Calls that read --------------------------------------------------------------------------------------------

    def open(self, path: str, flags: int) -> int:
        return int(self._reading("open", path, lambda _: os.open(self.below(path), flags)))

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        def work(short: bool) -> bytes:
            data = os.pread(fh, size, offset)
            return data[: self._rng.randint(1, len(data))] if short and data else data

        return bytes(self._reading("read", path, work))

    # Calls that always work -------------------------------------------------------------------------------------

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        found = os.fstat(fh) if fh else os.lstat(self.below(path))
        return {name: getattr(found, f"{name}_ns" if name.endswith("time") else name) for name in STAT}

    def readdir(self, path: str, fh: int) -> list[tuple[str, dict[str, int], int]]:
        # A name without an inode is passed over by the kernel.
        names = [".", "..", *sorted(child.name for child in self.below(path).iterdir())]
        return [(name, self.getattr(f"{path}/{name}"), 0) for name in names]

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self.below(path))
        return {name: getattr(found, name) for name in dir(found) if name.startswith("f_") and name != "f_fsid"}

    def chmod(self, path: str, mode: int) -> int:
        self.below(path).chmod(mode)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        os.utime(self.below(path), ns=times)
        return 0

    def release(self, path: str, fh: int) -> int:
        os.close(fh)
        return 0

    def init(self, path: str) -> None:
        print("ready", flush=True)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _peek(path: Path, size: int, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def main() -> None:
    """Mount, and serve until the end of standard input."""
    folder, plan = Path(sys.argv[1]).resolve(), json.loads(sys.argv[2])
    shutil.rmtree(folder / "trash", ignore_errors=True)  # what was kept before the power failed
    for name in ("below", "mount", "trash"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    os.umask(0)
    operations = PassThrough(folder, plan)
    threading.Thread(target=operations.obey, daemon=True).start()
    # Inodes are the real ones, so that two names of one file are seen to be; nothing is cached by the kernel, so that
    # each read and write comes here, and may be short.
    options = {"use_ino": True, "hard_remove": True, "direct_io": True}
    fuse.FUSE(operations, str(folder / "mount"), foreground=True, nothreads=True, fsname="danqing-faults", **options)


if __name__ == "__main__":
    main()
