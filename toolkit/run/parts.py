"""Finished parts of an unfinished unit: what a kill in the middle of a shard does not cost.

A part's files carry the attempt's name; `000003.json`, linked last and exclusively, says which files count (with a
lower number in their names where the part found its own taken) and what their bytes are. So two attempts at once never
mix, and a part is there wholly or not at all. The folder's name binds parts to the unit's inputs (and to what
dedup.earlier holds): parts made of older inputs are never found.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

import msgspec

from toolkit.config.config import canonical
from toolkit.data.stage import Stage, stem
from toolkit.errors import WorkError
from toolkit.run import files
from toolkit.run.layout import Layout


class Part(msgspec.Struct, frozen=True):
    """The record of one part: suffix -> file name, size, digest."""

    files: dict[str, tuple[str, int, str]]


class Parts:
    """The checkpoint of one unit."""

    def __init__(self, layout: Layout, stage: Stage, unit: int, inputs: Mapping[str, str], token: str) -> None:
        key = hashlib.blake2b(canonical([stage.version, dict(inputs)]), digest_size=8).hexdigest()
        self._folder = files.make(layout.parts(stage, unit, key))
        self._token = token
        self._sweep()

    def _sweep(self) -> None:
        """Remove what killed attempts of this host left unfinished.

        Who is dead is asked before the records are read: a part that is finished in between is seen to be kept.
        """
        left = [path for path in self._folder.iterdir() if files.dead(path.name.partition(".")[2].partition(".")[0])]
        kept = {name for part in self.parts() for name, _, _ in self._load(part).files.values()}
        for path in left:
            if path.name not in kept:
                files.remove(path)

    def _load(self, part: int) -> Part:
        path = self._record(part)
        try:
            return msgspec.json.decode(path.read_bytes(), type=Part)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise _damaged(path) from error

    def parts(self) -> Iterator[int]:
        """Return the numbers of the finished parts, ascending."""
        yield from sorted(int(path.stem) for path in self._folder.glob("[0-9]*.json") if path.stem.isdigit())

    def load(self, part: int, suffix: str) -> IO[bytes]:
        """Open a finished part's file; raises WorkError where its bytes are not those that were saved."""
        record = self._load(part).files
        if suffix not in record:
            raise _damaged(self._record(part))
        name, size, digest = record[suffix]
        path = self._folder / name
        if not path.exists() or path.stat().st_size != size or files.digest(path) != digest:
            raise _damaged(path)
        return path.open("rb", buffering=files.BUFFER)

    def save(self, part: int, write: Callable[[Callable[[str], IO[bytes]]], None]) -> None:
        """Write a part's files and publish them together; an attempt that comes second discards its own."""
        if self._record(part).exists():
            return
        record = self._write(part, write)
        if not self._publish(part, record, [part]):
            self._drop(record)

    def add(self, write: Callable[[Callable[[str], IO[bytes]]], None]) -> None:
        """Write a part's files and publish them together, under the next number that no attempt has taken."""
        part = max(self.parts(), default=-1) + 1
        self._publish(part, self._write(part, write), itertools.count(part))

    def _write(self, part: int, write: Callable[[Callable[[str], IO[bytes]]], None]) -> Part:
        opened: dict[str, IO[bytes]] = {}

        def create(suffix: str) -> IO[bytes]:
            opened[suffix] = files.create(self._folder / f"{stem(part)}.{self._token}{suffix}")
            return opened[suffix]

        try:
            write(create)
            return Part({suffix: self._finish(part, suffix, file) for suffix, file in sorted(opened.items())})
        except BaseException:
            for suffix, file in opened.items():
                file.close()
                files.remove(self._folder / f"{stem(part)}.{self._token}{suffix}")
            raise

    def _publish(self, part: int, record: Part, numbers: Iterable[int]) -> bool:
        """Return whether one of the numbers was free; the first that is becomes the part's."""
        aside = self._folder / f"{stem(part)}.{self._token}.record"
        try:
            files.write(aside, msgspec.json.encode(record))
            files.sync(self._folder)  # the files' names first: a record without its files would stop the unit
        except BaseException:
            files.remove(aside)
            self._drop(record)
            raise
        linked = any(files.link(aside, self._record(number)) for number in numbers)
        files.remove(aside)
        files.sync(self._folder)
        return linked

    def _drop(self, record: Part) -> None:
        for name, _, _ in record.files.values():
            files.remove(self._folder / name)

    def _finish(self, part: int, suffix: str, file: IO[bytes]) -> tuple[str, int, str]:
        name = f"{stem(part)}.{self._token}{suffix}"
        return name, *files.seal(self._folder / name, file)

    def _record(self, part: int) -> Path:
        return self._folder / f"{stem(part)}.json"


def _damaged(path: Path) -> WorkError:
    return WorkError(f"the checkpoint {path} is damaged; remove its folder and run `danqing run` again.")
