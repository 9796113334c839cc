"""Tars: the same archive that Python's tarfile writes, with offsets that point at the members' bytes."""

from __future__ import annotations

import hashlib
import io
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.data.tar import DigestError, Joined, TarWriter, checked, key, member, members

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


def test_a_checked_member_is_what_was_written_or_an_error() -> None:
    sink, [offset] = written([("a.jpg", b"picture")])
    digest = hashlib.blake2b(b"picture", digest_size=16).hexdigest()
    assert checked(sink, offset, 7, digest) == b"picture"
    for size, expected in ((6, digest), (7, "0" * 32), (7, None)):
        with pytest.raises(DigestError, match=f"expected {expected}"):
            checked(sink, offset, size, expected)


@pytest.mark.parametrize(("offset", "size"), [(10**9, 7), (-1, 7), (512, -1)])
def test_a_checked_member_that_is_not_there_is_no_digest_error(offset: int, size: int) -> None:
    with pytest.raises(EOFError, match=f"offset {offset}"):
        checked(written([("a.jpg", b"picture")])[0], offset, size, "0" * 32)


@given(
    st.lists(st.binary(max_size=40), max_size=6),
    st.lists(st.tuples(st.integers(0, 250), st.integers(-1, 60)), max_size=8),
    st.sampled_from([1, 7, 4096]),
)
def test_joined_files_read_as_their_bytes_one_after_the_other(
    parts: list[bytes], reads: list[tuple[int, int]], buffer: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / str(n) for n in range(len(parts))]
        for path, part in zip(paths, parts, strict=True):
            path.write_bytes(part)
        whole = b"".join(parts)
        with io.BufferedReader(Joined(paths), buffer) as joined:
            assert joined.read() == whole
            assert joined.seek(0, io.SEEK_END) == len(whole)
            for at, size in reads:
                joined.seek(at)
                assert joined.read(size) == (whole[at:] if size < 0 else whole[at : at + size])


def test_members_are_the_regular_files_with_the_place_of_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "any.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind in (("folder", tarfile.DIRTYPE), ("link.jpg", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        info = tarfile.TarInfo("图" * 80 + ".jpg")
        info.size = 7
        tar.addfile(info, io.BytesIO(b"picture"))
    [(found, data)] = [(info, file.read()) for info, file in members(path)]
    assert (found.name, data) == (info.name, b"picture")
    with path.open("rb") as file:
        assert member(file, found.offset_data, found.size) == b"picture"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b.c/1.seg.JPG", ("a/b.c/1", ".jpg")),
        ("1.jpg", ("1", ".jpg")),
        ("1", ("1", "")),
    ],
)
def test_a_key_ends_at_the_first_dot_of_the_name(name: str, expected: tuple[str, str]) -> None:
    assert key(name) == expected
