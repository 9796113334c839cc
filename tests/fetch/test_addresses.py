"""Hostile URLs, host names and addresses."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.fetch.addresses import DropError, Guard, literal, parse, public

NOT_PUBLIC_TEXT = """
0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.127.255.255 127.0.0.1 127.255.255.254 169.254.169.254 172.16.0.1
172.31.255.255 192.0.0.1 192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1
239.255.255.255 240.0.0.1 255.255.255.255
:: ::1 ::7f00:1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:0:127.0.0.1
64:ff9b::127.0.0.1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 100::1 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2
2001:db8::1 2002:7f00:1::1 2002:a9fe:a9fe::1 2002:808:808::1 3fff::1 fc00::1 fd00::1 fe80::1 fe80::1%eth0
fec0::1 ff02::1 2606:4700::1%1 nonsense
"""
PUBLIC_TEXT = "1.1.1.1 8.8.8.8 100.63.255.255 100.128.0.1 172.32.0.1 2606:4700::1111 ::ffff:8.8.8.8 64:ff9b::8.8.8.8"


@pytest.mark.parametrize("address", NOT_PUBLIC_TEXT.split())
def test_address_is_not_public(address: str) -> None:
    assert not public(address)


@pytest.mark.parametrize("address", PUBLIC_TEXT.split())
def test_address_is_public(address: str) -> None:
    assert public(address)


BLOCKED_TEXT = """
http://2130706433/ http://0x7f000001/ http://0177.0.0.1/ http://127.1/ http://0x7f.1/ http://127.0.0.1./ http://0/
http://①②⑦.0.0.1/ http://127。0。0。1/ http://[::1]/ http://[::ffff:7f00:1]/ http://169.254.169.254/latest/
http://2852039166/ http://0251.0376.0251.0376/ http://[0:0:0:0:0:ffff:a9fe:a9fe]/ http://[64:ff9b::a9fe:a9fe]/
http://127.0.0.1:9/ http://8.8.8.8:22/ http://8.8.8.8:1023/
"""


@pytest.mark.parametrize("url", BLOCKED_TEXT.split())
def test_literal_address_is_blocked_in_every_spelling(url: str) -> None:
    with pytest.raises(DropError) as drop:
        Guard({}, closed=False).admit(parse(url))
    assert drop.value.reason == "blocked_address"


@pytest.mark.parametrize("url", ["http://134744072/", "http://8.8.8.8:8080/", "https://a.test/", "http://a.test:443/"])
def test_public_host_and_common_port_are_admitted(url: str) -> None:
    Guard({}, closed=False).admit(parse(url))


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "x",
            "//a.test/",
            "file:///etc/passwd",
            "ftp://a.test/x",
            "data:image/png;base64,AA",
            "http://",
            "http:///x",
        ),
        *(
            "http://user@a.test/",
            "http://user:word@a.test/",
            "http://a.test\\@127.0.0.1/",
            "http://127.0.0.1\\.a.test/",
        ),
        *("http://a.test:0/", "http://a.test:65536/", "http://a.test:x/", "http://a b.test/", "http://%31.test/"),
        *("http://256.1.1.1/", "http://1.2.3.4.5/", "http://4294967296/", "http://09.1/", "http://a.1/"),
        *("http://[::1/", "http://[fe80::1%25eth0]/", "http://a..test/", "http://" + "a" * 64 + ".test/"),
        *("http://[v1.x]/", "http://[1.2.3.4]/", "http://[a.test]/", "http://a[::1]/", "http://[::1]x:80/"),
        "http://a.test/" + "x" * 9000,
    ],
)
def test_bad_url_is_refused(url: str) -> None:
    with pytest.raises(DropError) as drop:
        Guard({}, closed=False).admit(parse(url))
    assert drop.value.reason == "bad_url"


def test_url_keeps_its_quoting_and_quotes_only_what_it_must() -> None:
    target = parse(" HTTP://Bücher.Test:80/a%2Fb/图 1.jpg?x=%41&y=[1]#part ")
    assert target.url == "http://xn--bcher-kva.test/a%2Fb/%E5%9B%BE%201.jpg?x=%41&y=[1]"
    assert target.authority == "xn--bcher-kva.test"
    assert parse("https://a.test:8443/").authority == "a.test:8443"
    assert parse("http://[2606:4700::1111]:8080/").url == "http://[2606:4700::1111]:8080/"


@given(st.text() | st.builds("http://{}/{}".format, st.text(max_size=30), st.text(max_size=30)))
def test_parse_refuses_or_gives_a_url_that_it_reads_the_same_way(text: str) -> None:
    try:
        target = parse(text)
    except DropError:
        return
    assert target.url.isascii() and target.url.isprintable() and " " not in target.url
    assert parse(target.url) == target


@given(
    st.lists(st.integers(0, 2**33), min_size=1, max_size=5), st.lists(st.sampled_from("dox"), min_size=5, max_size=5)
)
def test_spelt_address_is_read_as_the_c_library_reads_it(numbers: list[int], bases: list[str]) -> None:
    forms = {"d": "{}", "o": "0{:o}", "x": "0x{:x}"}
    host = ".".join(forms[base].format(n) for n, base in zip(numbers, bases, strict=False))
    try:
        expected = socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        with pytest.raises(ValueError):
            literal(host)
        return
    assert str(literal(host)) == expected


def test_resolve_pattern_leads_names_and_never_literal_addresses() -> None:
    guard = Guard({"*.example.test": "127.0.0.1:8123", "*": "[::1]:9"}, closed=True)
    assert guard.mapped("a.b.example.test") == guard.resolve["*.example.test"]
    assert guard.mapped("example.test") == guard.resolve["*"]
    assert guard.mapped("8.8.8.8") is None
    assert guard.mapped("::1") is None
    assert guard.leads("a.example.test", "127.0.0.1", 8123)
    assert not guard.leads("a.example.test", "127.0.0.1", 8124)
    assert not guard.leads("127.0.0.1", "127.0.0.1", 8123)


def test_closed_guard_reaches_nothing_but_its_targets() -> None:
    guard = Guard({"*.example.test": "127.0.0.1:8123"}, closed=True)
    assert guard.reaches("127.0.0.1", 8123)
    assert not guard.reaches("127.0.0.1", 80)
    assert not guard.reaches("8.8.8.8", 80)
    with pytest.raises(DropError):
        guard.admit(parse("http://www.example.org/"))
