"""Tars: the same archive that Python's tarfile writes, with offsets that point at the members' bytes."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.data.tar import TarWriter, member

NAMES = st.text("0123456789abcdef", min_size=1, max_size=40).map(lambda stem: f"{stem}.jpg")
DATA = st.one_of(st.binary(max_size=40), st.sampled_from([511, 512, 513, 10_240]).map(bytes))
MEMBERS = st.lists(st.tuples(NAMES, DATA), max_size=6)


def written(members: list[tuple[str, bytes]]) -> tuple[io.BytesIO, list[int]]:
    sink = io.BytesIO()
    tar = TarWriter(sink)
    offsets = [tar.add(name, data) for name, data in members]
    tar.close()
    return sink, offsets


def reference(members: list[tuple[str, bytes]]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = len(data), 0o644, 0
            tar.addfile(info, io.BytesIO(data))
    return sink.getvalue()


@given(MEMBERS)
def test_bytes_are_those_of_tarfile(members: list[tuple[str, bytes]]) -> None:
    assert written(members)[0].getvalue() == reference(members)


@given(MEMBERS)
def test_offsets_point_at_the_bytes(members: list[tuple[str, bytes]]) -> None:
    sink, offsets = written(members)
    for (_, data), offset in zip(members, offsets, strict=True):
        assert member(sink, offset, len(data)) == data


def test_an_empty_tar_is_valid() -> None:
    sink, _ = written([])
    sink.seek(0)
    with tarfile.open(fileobj=sink) as tar:
        assert tar.getnames() == []


def test_nothing_of_the_machine_stands_in_a_header() -> None:
    sink, _ = written([("a.jpg", b"x")])
    sink.seek(0)
    with tarfile.open(fileobj=sink) as tar:
        [info] = tar.getmembers()
    assert (info.mtime, info.uid, info.gid, info.uname, info.gname, info.mode) == (0, 0, 0, "", "", 0o644)


def test_offsets_count_from_where_the_writer_began() -> None:
    sink = io.BytesIO()
    sink.write(b"before")
    assert TarWriter(sink).add("a.jpg", b"x") == 512
    assert sink.getvalue()[6 + 512 :][:1] == b"x"


@pytest.mark.parametrize("offset", [512, 510, 10**9])
def test_a_member_that_the_file_does_not_hold_is_an_error(offset: int) -> None:
    with pytest.raises(EOFError, match=f"offset {offset}"):
        member(io.BytesIO(bytes(512)), offset, 5)


def test_a_name_too_long_for_the_format_is_refused_before_anything_is_written() -> None:
    sink = io.BytesIO()
    with pytest.raises(ValueError, match="too long"):
        TarWriter(sink).add("a" * 300, b"x")
    assert sink.getvalue() == b""
