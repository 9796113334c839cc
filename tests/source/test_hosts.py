"""Hosts are read as browsers do, and a listed host covers its subdomains."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.errors import UserError, WorkError
from toolkit.source import hosts
from toolkit.source.hosts import _Sorted, blacklist, host


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://A.Example.test/x", "a.example.test"),
        ("https://user:pw@a.example.test:8443?x", "a.example.test"),
        ("http://a.example.test./x", "a.example.test"),
        ("http://good.test\\@bad.test/", "good.test"),
        ("http://[::1]:80/x", "[::1]"),
        ("/relative", ""),
        ("", ""),
    ],
)
def test_the_host_of_an_address(url, name):
    assert host(url) == name


def test_a_file_covers_subdomains_and_nothing_else(tmp_path):
    path = tmp_path / "hosts.txt"
    path.write_text("# bad\nBad.test  # the worst\n*.worse.test.\n\nbücher.test\n", "utf-8")
    listed = blacklist(str(path))
    assert [listed(name) for name in ("bad.test", "a.b.bad.test", "worse.test", "xn--bcher-kva.test")] == [True] * 4
    assert [listed(name) for name in ("notbad.test", "test", "", "bad.test.org", "good.test")] == [False] * 5
    assert listed("www.bücher.test")


def test_a_missing_file_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match="correct the path"):
        blacklist(str(tmp_path / "missing.txt"))


@given(st.sets(st.text("abc.-", min_size=1, max_size=6), max_size=40), st.text("abc.-", min_size=1, max_size=6))
def test_halving_finds_what_a_set_finds(entries, name):
    lines = _Sorted("\n".join(sorted(entries)).encode())
    assert all(entry in lines for entry in entries)
    assert (name in lines) == (name in entries)


def test_an_unsorted_list_is_refused():
    with pytest.raises(WorkError, match="sorted"):
        _Sorted(b"b\n" * 70_000 + b"a\n" * 70_000)


def test_the_builtin_list_is_whole_and_blocks_no_portal():
    text = hosts._builtin()
    names = text.rstrip(b"\n").split(b"\n")
    assert len(names) > 4_000_000 and all(a < b for a, b in pairwise(names))
    listed = blacklist("builtin")
    assert listed(names[0].decode()) and listed("www." + names[-1].decode()) and listed(names[len(names) // 2].decode())
    portals = ("baidu.com", "img0.baidu.com", "sina.com.cn", "alicdn.com", "example.test", "img1.example.test", "com")
    assert not any(listed(name) for name in portals)
