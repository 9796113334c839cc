"""The images of a shard, read from its tar by offset, each with its digest checked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

import pyarrow as pa

from toolkit.data.stage import Task
from toolkit.data.tar import DigestError, checked
from toolkit.guard import Fault

COLUMNS = ("id", "offset", "bytes", "digest")


def members(tar: IO[bytes], rows: pa.Table, task: Task) -> Iterator[bytes | Fault]:
    """Yield each row's image file, or Fault "missing" or "digest".

    In a run either ends the attempt: an image that was fetched and is another now must not be measured, or dropped.
    """
    columns = (rows[name].to_pylist() for name in COLUMNS)
    for name, offset, size, digest in zip(*columns, strict=True):
        item = _member(tar, offset, size, digest)
        if isinstance(item, Fault):
            task.spoilt(f"image {name}", str(item))
        yield item


def _member(tar: IO[bytes], offset: int | None, size: int | None, digest: str | None) -> bytes | Fault:
    if offset is None or size is None:
        return Fault("missing")
    try:
        return checked(tar, offset, size, digest)
    except EOFError:
        return Fault("missing")
    except DigestError:
        return Fault("digest")
