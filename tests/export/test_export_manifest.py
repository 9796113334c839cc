"""The manifest: one canonical text for one set of files."""

from __future__ import annotations

import json

import toolkit
from toolkit.data.stage import Output
from toolkit.export.manifest import absent, manifest

FILES = [
    Output(path="001/001000.parquet", bytes=70, digest="cc", rows=4),
    Output(path="000/000002.tar", bytes=20, digest="bb", rows=None),
    Output(path="000/000002.parquet", bytes=10, digest="aa", rows=3),
]


def test_lists_files_by_path_with_totals() -> None:
    tree = json.loads(manifest(FILES, [5, 3], "c0ffee"))
    assert [file["path"] for file in tree.pop("files")] == sorted(file.path for file in FILES)
    assert tree == {
        "config": "c0ffee",
        "missing": [3, 5],
        "toolkit": toolkit.__version__,
        "totals": {"bytes": 100, "files": 3, "rows": 7},
    }


def test_a_file_has_path_size_digest_and_rows() -> None:
    assert json.loads(manifest(FILES, [], ""))["files"][1] == {
        "path": "000/000002.tar",
        "bytes": 20,
        "digest": "bb",
        "rows": None,
    }


def test_is_canonical_and_independent_of_order() -> None:
    data = manifest(FILES, [], "c0ffee")
    assert data == manifest(FILES[::-1], [], "c0ffee")
    assert data == json.dumps(json.loads(data), sort_keys=True, separators=(",", ":")).encode()


def test_absent_shards_are_those_without_a_file() -> None:
    assert absent([999, 2, 1000, 1], FILES) == [1, 999]
    assert absent([], FILES) == []
