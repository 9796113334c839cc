"""The manifest: every data file of the dataset with size and digest, so that a copy can be checked.

Promise: canonical JSON (keys sorted, no white space, UTF-8), so equal datasets have equal manifests.
"""

from __future__ import annotations

from collections.abc import Sequence

import toolkit
from toolkit.config.config import canonical
from toolkit.data.stage import Output, stem


def manifest(files: Sequence[Output], missing: Sequence[int], digest: str) -> bytes:
    """Return manifest.json: files by path, totals, missing shards, config digest and toolkit version."""
    return canonical(
        {
            "config": digest,
            "files": [
                {"path": file.path, "bytes": file.bytes, "digest": file.digest, "rows": file.rows}
                for file in sorted(files, key=lambda file: file.path)
            ],
            "missing": sorted(missing),
            "toolkit": toolkit.__version__,
            "totals": {"bytes": size(files), "files": len(files), "rows": rows(files)},
        }
    )


def rows(files: Sequence[Output]) -> int:
    """Return the pairs in the tables."""
    return sum(file.rows or 0 for file in files)


def size(files: Sequence[Output]) -> int:
    """Return the bytes of all files."""
    return sum(file.bytes for file in files)


def absent(shards: Sequence[int], files: Sequence[Output]) -> list[int]:
    """Return the shards of which no file is there: the run went on without them."""
    there = {file.path.rpartition("/")[2].partition(".")[0] for file in files}
    return [shard for shard in sorted(shards) if stem(shard) not in there]
