"""Export: the rows that are left, as parquet tables with webdataset tars beside them, a card and a manifest.

Promises: images are the bytes that were fetched, their digests checked again; what came from the crawl
(addresses, texts) stands in columns, JSON strings and captions, never in a member's name; a shard without
pairs gives an empty table and an empty tar. Nothing is measured and nothing dropped here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import IO, Any

import pyarrow as pa

from toolkit.config.config import canonical
from toolkit.data.formats import sniff
from toolkit.data.pair import ID_BYTES, schema
from toolkit.data.stage import Task
from toolkit.data.table import build
from toolkit.data.tar import DigestError, TarWriter, checked
from toolkit.errors import UserError, WorkError
from toolkit.export.card import card
from toolkit.export.manifest import absent, manifest

# Pairs between two reports of progress, which are also the points where a task that is asked to stop stops.
PIECE = 1000

_KEPT = ("id", "url", "text", "caption", "page", "width", "height", "mime", "digest", "bytes")
_JSON = ("id", "url", "text", "caption", "page", "width", "height")
_ID = re.compile(f"[0-9a-f]{{{2 * ID_BYTES}}}")


def run(task: Task) -> None:
    """Write the table of one shard and, unless `images: false`, its tar."""
    rows = task.rows(*_KEPT, "offset")
    if not task.config.export.images:
        task.write(listed(rows))
        task.advance(rows.num_rows)
        return
    tar = TarWriter(task.create(".tar"))
    with task.open("fetch", ".tar") as source:
        task.write(_batches(task, rows, source, tar))
    tar.close()


def close(task: Task) -> None:
    """Write README.md (the dataset card) and manifest.json, when all shards are exported.

    The closing unit is numbered after the shards, so those before it that left no file are missing.
    """
    files, digest = task.outputs(), task.digest()
    missing = absent(range(task.unit), files)
    text = card(task.config, files, task.funnel(), missing, digest)
    task.create_named("README.md").write(text.encode())
    task.create_named("manifest.json").write(manifest(files, missing, digest))


def listed(rows: pa.Table) -> pa.Table:
    """Return the export table of rows whose images are not published: `tar` and `offset` are null."""
    nothing = [None] * rows.num_rows
    return _table(rows, tar=nothing, offset=nothing)


def packed(rows: pa.Table, source: IO[bytes], tar: TarWriter, name: str, shard: int) -> pa.Table:
    """Copy the rows' images from fetch's tar into the new one and return the export table that points there.

    Raises WorkError, naming the shard, where an image is not the one that was fetched.
    """
    offsets = [sample(tar, row, image(source, row, shard)) for row in rows.to_pylist()]
    return _table(rows, tar=[name] * rows.num_rows, offset=offsets)


def image(source: IO[bytes], row: Mapping[str, Any], shard: int) -> bytes:
    """Return the row's image from fetch's tar; raises WorkError where it is missing or its digest differs."""
    try:
        if row["offset"] is None:
            raise EOFError("no image was fetched for it")
        return checked(source, row["offset"], row["bytes"], row["digest"])
    except (EOFError, DigestError) as error:
        raise _broken(shard, row["id"], str(error)) from error


def sample(tar: TarWriter, row: Mapping[str, Any], data: bytes) -> int:
    """Append one pair in webdataset's layout (image, caption, facts); return where the image begins.

    Raises UserError for an id that is no id: in tables of other tools it could name any path.
    """
    name = row["id"]
    if not _ID.fullmatch(name):
        raise UserError(
            f"The column id holds {name!r}, expected 32 hex digits (0-9, a-f); leave the column out, and ids are made "
            "from url and text."
        )
    start = tar.add(f"{name}.{extension(data)}", data)
    tar.add(f"{name}.txt", row["caption"].encode())
    tar.add(f"{name}.json", canonical({key: row[key] for key in _JSON}))
    return start


def extension(data: bytes) -> str:
    """Return jpg, png, gif or webp as the first bytes tell, or else bin."""
    return sniff(data[:12]) or "bin"


def _batches(task: Task, rows: pa.Table, source: IO[bytes], tar: TarWriter) -> Iterator[pa.Table]:
    for start in range(0, rows.num_rows, PIECE):
        batch = rows.slice(start, PIECE)
        yield packed(batch, source, tar, task.name(".tar"), task.unit)
        task.advance(batch.num_rows)


def _table(rows: pa.Table, **columns: list[Any]) -> pa.Table:
    return build(schema("export"), {**{name: rows[name] for name in _KEPT}, **columns})


def _broken(shard: int, pair: str, fault: str) -> WorkError:
    return WorkError(
        f"Shard {shard} can not be exported: the image of pair {pair} in fetch's tar is not the one that was "
        f"fetched ({fault}). Nothing of this shard was published. `danqing verify` names every damaged file "
        "of the run."
    )
