"""Plain files: what they hold is told by content, and tables are joined by id as a plain reference joins them."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.config.config import check
from toolkit.data import features
from toolkit.data.ids import column
from toolkit.data.pair import pair_id
from toolkit.errors import UserError
from toolkit.run import files
from toolkit.run.earlier import find, pieces
from toolkit.run.inputs import Inputs, _join, kind
from toolkit.run.plain import run_stage

IDS = st.lists(st.sampled_from("abcdef"), max_size=12)


def rows_of(ids: list[str], column: str) -> pa.Table:
    """A table with a column that tells which of the rows of an id a row is."""
    seen: Counter[str] = Counter()
    values = []
    for name in ids:
        values.append(f"{name}{seen[name]}")
        seen[name] += 1
    return pa.table({"id": pa.array(ids, pa.string()), column: pa.array(values, pa.string())})


@given(IDS, IDS)
def test_tables_are_joined_by_id_and_the_nth_of_equal_ones_is_the_nth(here: list[str], there: list[str]) -> None:
    first, other = rows_of(here, "x"), rows_of(there, "y")
    expected = [row | {"y": row["x"]} for row in first.to_pylist() if row["x"] in other["y"].to_pylist()]
    if here and there and not expected:
        with pytest.raises(UserError, match="none in common"):
            _join(first, other)
    else:
        assert _join(first, other).to_pylist() == expected


def parquet(path: Path, **columns: list[Any]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def read(*paths: Path) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Return the rows of the files, and the damage."""
    damage: list[tuple[str, str]] = []
    return Inputs(paths, lambda where, what: damage.append((where, what))).rows.to_pylist(), damage


@pytest.mark.parametrize("name", ["text", "alt_text", "alt", "caption"])
def test_pairs_of_other_tools_get_ids(tmp_path: Path, name: str) -> None:
    path = parquet(
        tmp_path / "a",
        url=["http://a/1", None],
        **{name: ["猫", None]},
        id=[1, 2],
        status=["a", "b"],
        blob=[b"x", b"y"],
    )
    rows, damage = read(path)
    assert [(row["id"], row["url"], row["text"]) for row in rows] == [
        (pair_id("http://a/1", "猫"), "http://a/1", "猫"),
        (pair_id("", ""), "", ""),
    ]
    assert not {"blob", "status"} & set(rows[0]) and damage == []


def test_pairs_are_put_together_though_their_columns_differ(tmp_path: Path) -> None:
    one = parquet(tmp_path / "one", url=["http://a/1"], text=["x"], page=["http://p"])
    two = parquet(tmp_path / "two", url=pa.array(["http://a/2"], pa.large_string()), text=["y"])
    three = tmp_path / "three"
    three.write_text("url,text\nhttp://a/3,z\n")
    rows, damage = read(one, two, three)
    assert [(row["url"], row["page"]) for row in rows] == [
        ("http://a/1", "http://p"),
        ("http://a/2", None),
        ("http://a/3", ""),
    ]
    assert damage == []


def test_what_any_table_dropped_is_gone_and_duplicates_go_with_the_table_of_unique(tmp_path: Path) -> None:
    ids = [f"{n:032x}" for n in range(4)]
    pairs = parquet(tmp_path / "a", id=[*ids, ids[0]], url=list("abcda"), text=list("vwxyv"))
    fetched = parquet(tmp_path / "b", id=ids[:3], status=[200, 404, 200], dropped=[None, "fetch.http_4xx", None])
    numbers = [pa.array([0], pa.int32())] * 4
    names = ["id", "shard", "row", "first_shard", "first_row", "dropped"]
    pq.write_table(pa.table([pa.array(ids[:1]), *numbers, pa.array(["source.duplicate"])], names), tmp_path / "unique")
    assert [row["id"] for row in read(pairs, tmp_path / "unique")[0]] == ids
    assert [row["id"] for row in read(pairs, fetched, tmp_path / "unique")[0]] == [ids[0], ids[2]]


def test_a_table_without_url_and_id_is_named(tmp_path: Path) -> None:
    rows, damage = read(parquet(tmp_path / "a", id=["cat"], width=[3]), parquet(tmp_path / "b", url=["u"], text=["t"]))
    assert len(rows) == 1
    assert [Path(where).name for where, _ in damage] == ["a"]


def test_kinds_are_told_by_content(tmp_path: Path) -> None:
    def tar(form: int) -> bytes:
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w", format=form) as file:
            file.addfile(tarfile.TarInfo("a.txt"), io.BytesIO())
        return sink.getvalue()

    old = bytearray(tar(tarfile.USTAR_FORMAT)[:512])
    old[257:265] = bytes(8)  # a tar of before 1988 has no magic, but a checksum
    old[148:156] = b"%06o\0 " % (sum(old) - sum(old[148:156]) + 8 * 32)
    found = {
        "tar": [tar(tarfile.USTAR_FORMAT), tar(tarfile.GNU_FORMAT), tar(tarfile.PAX_FORMAT), bytes(old), bytes(10240)],
        "hdf5": [b"\x89HDF\r\n\x1a\n"],
        "parquet": [b"PAR1"],
        "empty": [b""],
        "other": [b"url,text\n", b"\x1f\x8b\x08", b"x" * 600, bytes(100)],
    }
    for expected, contents in found.items():
        for content in contents:
            (tmp_path / "x").write_bytes(content)
            assert kind(tmp_path / "x") == expected, content[:20]


def long_names(count: int) -> bytes:
    """Headers of a long name, each of which is the name of the next one."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2
    return (info.tobuf(tarfile.GNU_FORMAT) + b"a\0".ljust(512, b"\0")) * count


def sized(size: int) -> bytes:
    """A header of a long name of so many bytes."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, size
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(512)


@pytest.mark.parametrize("data", [long_names(3000), sized(1 << 50), sized(1 << 80)])
def test_a_tar_that_exhausts_the_stack_or_memory_costs_itself(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bomb.tar").write_bytes(data)
    pairs = parquet(tmp_path / "pairs.parquet", url=["http://a.test/1"], text=["a"])
    damage: list[tuple[str, str]] = []
    found = Inputs([tmp_path / "bomb.tar", pairs], lambda where, what: damage.append((where, what)))
    assert found.tables[1].num_rows == 1
    assert [(where, what[:14]) for where, what in damage] == [(str(tmp_path / "bomb.tar"), "not readable: ")]
    assert damage[0][1] != "not readable: "


def test_of_feature_files_without_tables_no_ids_are_held(tmp_path: Path) -> None:
    """Such a file may have more rows than a machine could hold the ids of; earlier ones are told apart in blocks."""
    ids = np.random.default_rng(1).integers(0, 256, (500_000, 16), np.uint8)
    for name in ("a.h5", "b.h5"):
        with (tmp_path / name).open("w+b") as sink:
            features.write(sink, ids=ids, image=[np.ones((len(ids), 1), np.float16)], dim=1)
    tracemalloc.start()
    try:
        inputs = Inputs([tmp_path / "a.h5", tmp_path / "b.h5"], lambda where, what: None)
        ((piece,),) = map(pieces, find([str(tmp_path / "a.h5")]))
        assert (inputs.feature_ids(1), piece.ids(), piece.rows) == (None, None, len(ids))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * len(ids)  # half of the ids of one


def test_ids_of_feature_files_are_those_that_no_table_has_dropped(tmp_path: Path) -> None:
    ids = np.random.default_rng(1).integers(0, 256, (5, 16), np.uint8)
    with (tmp_path / "a.h5").open("w+b") as sink:
        features.write(sink, ids=ids, image=[np.ones((5, 1), np.float16)], dim=1)
    dropped = [None, "image.blur", None, None, "image.blur"]
    table = parquet(tmp_path / "b", id=column(ids), dropped=pa.array(dropped, pa.string()))
    inputs = Inputs([tmp_path / "a.h5", table], lambda where, what: None)
    assert inputs.feature_ids(0).tolist() == ids[[0, 2, 3]].tolist()


def test_what_a_killed_command_left_goes_with_the_next_one_for_its_output(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    host = files.token().rpartition("-")[0].rpartition("-")[0]
    for name in (
        f".o.parquet.{host}-{gone.pid}-00ff",
        f".p.parquet.{host}-{gone.pid}-00ff",
        f".o.parquet.{files.token()}",
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part-0.pairs").touch()
    with (tmp_path / "x.h5").open("w+b") as sink:
        features.write(sink, ids=np.zeros((1, 16), np.uint8), image=[np.ones((1, 8), np.float16)], dim=8)
    config = check({"input": {"kind": "table", "paths": ["-"]}}, "test")
    run_stage("dedup", [tmp_path / "x.h5"], tmp_path / "o.parquet", config)
    left = sorted(path.name.split(".")[1] for path in tmp_path.glob(".*"))
    assert left == ["o", "p"], "that of one who lives, and that of another output"
