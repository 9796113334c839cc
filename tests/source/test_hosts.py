"""Hosts are read as browsers do, and a listed host covers its subdomains."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.errors import UserError, WorkError
from toolkit.fetch import addresses
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
        (" http://a.test/x", "a.test"),
        ("\u3000http://a.test/x", "a.test"),
        ("ht\ntp://a.te\tst/x", "a.test"),
        ("http://a.test。/x", "a.test"),
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


LISTED = ("bad.test", "xn--bcher-kva.test", "127.0.0.1", "2001:db8::1")
SPELLINGS = ("bad.test", "BAD.test", "ｂad。test", "www.bad．test", "bücher.test", "BÜCHER｡test", "bu\u0308cher.test")
SPELLINGS += ("127.0.0.1", "0x7f.1", "2130706433", "0177.0.0.1", "１２７.0.0.1", "[2001:DB8:0::1]", "good.test")


@given(
    st.lists(st.sampled_from([*" \t\r\n\x00\u3000\xa0"]), max_size=3).map("".join),
    st.sampled_from(["http://", "HTTPS://", "ht\ttp://"]),
    st.sampled_from(SPELLINGS) | st.text("bad.test。．@:\\[]%\n０", max_size=12),
    st.sampled_from(["", ".", "。", "．", "..", "。."]),
    st.sampled_from(["", "/x", ":80/x", "?q", "#f", "\\@good.test", "\n/ "]),
)
def test_what_the_downloader_would_ask_a_listed_host_for_is_listed(tmp_path_factory, before, scheme, name, dots, after):
    path = tmp_path_factory.getbasetemp() / "listed.txt"
    if not path.exists():
        path.write_text("\n".join(LISTED), "utf-8")
    url = before + scheme + name + dots + after
    try:
        asked = addresses.parse(url).host
    except addresses.DropError:
        return
    if any(part in LISTED for part in hosts.suffixes(asked)):
        assert blacklist(str(path))(host(url))


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
