"""A disk that fails on a plan: errors, lies, crashes at any call, and loss of what was never brought to the disk.

It stands where `files.system` stands. Real files lie below it, so every library works on it unchanged; `fsync` costs
nothing and is only remembered. At a power loss (`lose`) each name that was given, taken or changed since its folder
was synced may be as before, and each file that was not synced may be shorter: POSIX promises no more.
"""

from __future__ import annotations

import errno
import io
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from toolkit.run import files

ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.ESTALE)


class Crash(BaseException):
    """The process is no more. Whatever runs while this goes up the stack has no effect on the disk."""


@dataclass
class Undo:
    """How a change of a name goes back, if its folder is not synced before the power fails."""

    folder: Path
    back: Callable[[], None]


@dataclass
class Disk(files.System):
    """The calls that change a disk, each a point at which something may happen."""

    at: Callable[[str, Path], str | None]
    """Asked at each point what happens there; raises Crash where the caller is dead."""
    trash: Path
    """A folder beside the tree, for what may come back."""
    rng: random.Random
    _names: list[Undo] = field(default_factory=list)
    _loose: dict[int, Path] = field(default_factory=dict)  # inode -> a name in the trash, of files not synced
    _kept: Iterator[int] = field(default_factory=lambda: iter(range(1 << 40)))

    def _point(self, call: str, path: Path, work: Callable[[], Any]) -> Any:
        """Do the work, with what the plan says before or after it."""
        fate = self.at(call, path)
        if fate == "crash before":
            raise Crash
        if fate in ("error", "full"):
            raise OSError(number := self.rng.choice(ERRORS), os.strerror(number), str(path))
        result = work()
        if fate == "crash after":
            raise Crash
        if fate == "lie" and call in ("link", "move"):  # NFS: the answer was lost, the work is done
            raise OSError(number := self.rng.choice((errno.EEXIST, errno.EIO, errno.ESTALE)), os.strerror(number))
        return result

    def _keep(self, path: Path) -> Path:
        kept = self.trash / f"{next(self._kept)}"
        os.link(path, kept)
        return kept

    def _named(self, path: Path) -> None:
        self._names.append(Undo(path.parent, lambda: path.unlink(missing_ok=True)))

    def _unnamed(self, path: Path) -> None:
        kept = self._keep(path)
        self._names.append(Undo(path.parent, lambda: self._bring(kept, path)))

    def _bring(self, kept: Path, path: Path) -> None:
        if path.parent.is_dir() and not path.exists():
            os.link(kept, path)

    def create(self, path: Path) -> IO[bytes]:
        def work() -> IO[bytes]:
            raw = Raw(path, self)
            self._named(path)
            self._loose[os.fstat(raw.fileno()).st_ino] = self._keep(path)
            return io.BufferedRandom(raw, files.BUFFER)

        return self._point("create", path, work)

    def sync_file(self, path: Path) -> None:
        self._point("sync file", path, lambda: self._loose.pop(path.stat().st_ino, None))

    def sync_folder(self, folder: Path) -> None:
        if not folder.is_relative_to(self.trash.parent):
            return  # how deep the play lies must not change it

        def work() -> None:
            folder.stat()
            self._names = [undo for undo in self._names if undo.folder != folder]

        self._point("sync folder", folder, work)

    def link(self, source: Path, target: Path) -> None:
        def work() -> None:
            super(Disk, self).link(source, target)
            self._named(target)

        self._point("link", target, work)

    def move(self, source: Path, target: Path) -> None:
        def work() -> None:
            self._unnamed(source)
            super(Disk, self).move(source, target)
            self._named(target)

        self._point("move", target, work)

    def rename(self, source: Path, target: Path) -> None:
        def work() -> None:
            before = self._keep(target) if target.exists() else None
            self._unnamed(source)
            super(Disk, self).rename(source, target)
            self._names.append(Undo(target.parent, lambda: self._unrename(target, before)))

        self._point("rename", target, work)

    def _unrename(self, target: Path, before: Path | None) -> None:
        target.unlink(missing_ok=True)
        if before is not None:
            self._bring(before, target)

    def remove(self, path: Path) -> None:
        def work() -> None:
            if path.exists() or path.is_symlink():
                self._unnamed(path)
            super(Disk, self).remove(path)

        self._point("remove", path, work)

    def make(self, folder: Path) -> None:
        def work() -> None:
            missing = [p for p in (folder, *folder.parents) if not p.exists()]
            super(Disk, self).make(folder)
            for path in missing:
                self._names.append(Undo(path.parent, lambda p=path: shutil.rmtree(p, ignore_errors=True)))  # type: ignore[misc]

        self._point("make", folder, work)

    def clear(self, folder: Path) -> None:
        """Remove a folder piece by piece: a crash may leave some of it."""
        try:
            for path in sorted(folder.rglob("*"), reverse=True):
                if not path.is_dir():
                    self.remove(path)
            self._point("clear", folder, lambda: super(Disk, self).clear(folder))
        except OSError:
            return  # as rmtree(ignore_errors=True)

    def short(self, path: Path, size: int) -> int:
        """Return how many of so many bytes a write takes; raises OSError, Crash."""
        fate = self.at("write", path)
        if fate in ("error", "full"):
            raise OSError(number := self.rng.choice(ERRORS), os.strerror(number), str(path))
        if fate in ("crash before", "crash after"):
            raise Crash
        return self.rng.randint(1, size) if fate == "short" and size else size

    def lose(self) -> None:
        """Let the power fail: what was not synced may be gone, each change by its own chance."""
        for undo in reversed(self._names):
            if self.rng.random() < 0.5:
                undo.back()
        for kept in self._loose.values():
            size = kept.stat().st_size
            if size and self.rng.random() < 0.7:
                os.truncate(kept, self.rng.randrange(size))
        self.settle()

    def settle(self) -> None:
        """Let everything reach the disk: it had the time."""
        self._names.clear()
        self._loose.clear()


class Raw(io.FileIO):
    """A file at work on a disk that fails; of a dead process nothing arrives any more."""

    def __init__(self, path: Path, disk: Disk) -> None:
        super().__init__(path, "x+b")
        self._path, self._disk = path, disk

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        try:
            size = self._disk.short(self._path, len(view))
        except Crash:
            return len(view)  # a buffer that is flushed on the way out must not raise again; nothing is written
        return super().write(view[:size])


class Reading(io.FileIO):
    """A file that gives fewer bytes at a time than were asked for, as any read(2) may."""

    def __init__(self, path: Path, rng: random.Random) -> None:
        super().__init__(path, "rb")
        self._rng = rng

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        return super().readinto(view[: self._most(len(view))])

    def read(self, size: int | None = -1, /) -> bytes:
        return super().readall() if size is None or size < 0 else super().read(self._most(size))

    def _most(self, size: int) -> int:
        return max(1, self._rng.randint(size // 2, size)) if size else 0
