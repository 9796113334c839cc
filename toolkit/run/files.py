"""The only door to the disk: nothing else in the toolkit opens for writing, links, syncs, renames or removes.

Promise: a name that `link` has published is never written again; what `finish` returned from has reached the disk.
rename(2) over an existing name is used for derived files alone (`replace`), which anybody can make again.

Behind the door stands `System`, the calls that change a disk. The fault harness (tests/chaos) puts another one in its
place, which fails, forgets what was never synced, or ends the process at any of them.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import re
import shutil
import socket
from pathlib import Path
from typing import IO

BUFFER = 1 << 20
_HOST = re.sub(r"[^A-Za-z0-9]+", "_", socket.gethostname())
_RENAME_NOREPLACE = 1
_AT_FDCWD = -100
# A file system without hard links says one of these (FAT, some FUSE mounts, BeeGFS between folders).
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EXDEV)


class System:
    """The calls that change a disk, as they are."""

    def create(self, path: Path) -> IO[bytes]:
        """Open a new file for writing and reading; raises FileExistsError."""
        return path.open("x+b", buffering=BUFFER)

    def sync_file(self, path: Path) -> None:
        """Bring what was written to a file to the disk, whoever wrote it."""
        with path.open("rb") as file:
            os.fsync(file.fileno())

    def sync_folder(self, folder: Path) -> None:
        """Bring the names in a folder to the disk."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name that nobody has; raises FileExistsError."""
        os.link(source, target)

    def move(self, source: Path, target: Path) -> None:
        """Give a file another name that nobody has, where there are no links; raises FileExistsError."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(target))

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name, in place of what has it."""
        source.rename(target)

    def remove(self, path: Path) -> None:
        """Take a name away; nothing happens where there is none."""
        path.unlink(missing_ok=True)

    def make(self, folder: Path) -> None:
        """Make a folder with its parents."""
        folder.mkdir(parents=True, exist_ok=True)

    def clear(self, folder: Path) -> None:
        """Remove a folder and all in it, as far as that is possible."""
        shutil.rmtree(folder, ignore_errors=True)


system = System()


def create(path: Path) -> IO[bytes]:
    """Open a new file for writing and reading; raises FileExistsError."""
    return system.create(path)


def finish(path: Path, file: IO[bytes]) -> None:
    """Close a file that was written, and bring it to the disk."""
    file.close()
    system.sync_file(path)


def seal(path: Path, file: IO[bytes]) -> tuple[int, str]:
    """Bring a written file to the disk, whoever closed it; return its size and digest."""
    finish(path, file)
    return path.stat().st_size, digest(path)


def write(path: Path, data: bytes) -> None:
    """Write a new file whole and bring it to the disk."""
    with create(path) as file:
        file.write(data)
    finish(path, file)


def replace(path: Path, data: bytes) -> None:
    """Write a derived file, taking the place of an older one."""
    aside = path.with_name(f".{path.name}.{token()}")
    try:
        write(aside, data)
        system.rename(aside, path)
    finally:
        remove(aside)  # a full disk must not leave one more file at each try
    sync(path.parent)


def link(source: Path, target: Path) -> bool:
    """Give a finished file its final name; return False where that name is taken by another file.

    On NFS a link that was reported as failed may have happened, so every error is followed by a second look.
    """
    try:
        system.link(source, target)
    except OSError as error:
        if same(source, target):
            return True
        if error.errno == errno.EEXIST:
            return False
        if error.errno not in _NO_LINKS:
            raise
        return _move(source, target)
    return True


def _move(source: Path, target: Path) -> bool:
    try:
        system.move(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        said = f"neither link nor renameat2 works here ({error.strerror})"
        raise OSError(error.errno, said, str(target)) from error
    return True


def same(one: Path, other: Path) -> bool:
    """Return whether both names are one file."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def sync(folder: Path) -> None:
    """Bring a folder's names to the disk."""
    system.sync_folder(folder)


# What a folder above ours says to fsync where it is somebody else's care, or of a kind that has none (automounts).
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EINVAL, errno.EROFS, errno.ENOTSUP, errno.ENOSYS)
# Folders whose names this process has brought to the disk.
known: set[Path] = set()


def make(folder: Path) -> Path:
    """Make a folder with its parents, where they are missing, and bring their names to the disk.

    Of a folder that is there already nobody knows whether its name has reached the disk: its maker may have been killed
    before, or told that the disk was full. So each process sees to it once. (Found by the fault harness: a mark in a
    folder that the power failure took along.)
    """
    paths = (folder, *folder.parents)
    missing = {path for path in paths if not path.exists()}
    system.make(folder)
    for path in (p for p in paths if p in missing or p not in known):
        try:
            sync(path.parent)
        except OSError as error:
            if path in missing or error.errno not in _NOT_OURS:
                raise
        known.add(path)
    return folder


def private(folder: Path) -> Path:
    """Make a folder that nobody else may enter: what lies in it is run."""
    make(folder).chmod(0o700)
    return folder


def remove(path: Path) -> None:
    """Remove a file; nothing happens where there is none."""
    system.remove(path)


def clear(folder: Path) -> None:
    """Remove a folder and all in it, as far as that is possible: another attempt may be removing it too."""
    system.clear(folder)


def token() -> str:
    """Return a name that no other attempt has, and that tells whose it is: host, process, chance."""
    return f"{_HOST}-{os.getpid()}-{os.urandom(4).hex()}"


def dead(name: str) -> bool:
    """Return whether a name was made by `token` in a process of this host that is no more."""
    host, _, rest = name.rpartition("-")[0].rpartition("-")
    if host != _HOST or not rest.isdigit():
        return False
    try:
        os.kill(int(rest), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def digest(path: Path) -> str:
    """Return the BLAKE2b-256 digest of a file's bytes, read from the disk's copy."""
    with path.open("rb", buffering=0) as file:
        hasher = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32))
    return hasher.hexdigest()


class Lock:
    """A lock that the kernel frees when its holder dies; `taken` is False where another process holds it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.taken = True
        except OSError as error:
            # A file system without locks (some Lustre mounts) answers ENOLCK or ENOSYS: go on, publishing is safe.
            self.taken = error.errno not in (errno.EAGAIN, errno.EACCES)

    def free(self) -> None:
        """Let the next process in."""
        self._file.close()
