"""The client against real servers on loopback that lie, drip, loop and never end."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
import trustme

import toolkit
from toolkit.config.fetch import Fetch
from toolkit.errors import UserError, WorkError
from toolkit.fetch.addresses import parse
from toolkit.fetch.client import DOWN_AFTER, Client, Host, check
from toolkit.fetch.session import agent

URL = "http://a.test/x.jpg"


def redirect(location: str) -> str:
    return f"Location: {location}"


def test_image_is_kept_as_it_is(wire: Any, connects: list[tuple[str, int]], lookups: list[str]) -> None:
    answer, raw = wire.get(wire.always(wire.answer(wire.JPEG, "200 OK", "Content-Type: Image/JPEG; a=b")))
    assert (answer.dropped, answer.status, answer.kind, answer.mime) == (None, 200, "jpg", "image/jpeg")
    assert answer.body == wire.JPEG
    assert (answer.final_url, answer.redirects) == (URL, 0)
    assert raw.paths == ["/robots.txt", "/x.jpg"]
    assert set(connects) == {("127.0.0.1", raw.port)}
    assert lookups == []


def test_request_is_honest_and_bare(wire: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    cookie = wire.answer(wire.JPEG, "200 OK", "Set-Cookie: id=1")

    async def use(client: Client, raw: Any) -> None:
        await client.image(URL)
        await client.image(URL)

    raw = wire.ask(wire.always(cookie), use, contact="https://lab.example.org/crawl")
    headers = dict(line.split(": ", 1) for line in raw.requests[-1].strip().split("\r\n")[1:])
    assert headers["Host"] == "a.test"
    assert headers["User-Agent"] == f"danqing-toolkit/{toolkit.__version__} (+https://lab.example.org/crawl)"
    assert headers["Accept-Encoding"] == "identity"
    assert "Cookie" not in headers
    assert agent(None) == f"danqing-toolkit/{toolkit.__version__}"


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("404 Not Found", "http_4xx"),
        ("429 Slow Down", "http_4xx"),
        ("500 Broken", "http_5xx"),
        ("304 Not Modified", "redirects"),
        ("206 Partial Content", "incomplete"),
        ("204 No Content", "not_image"),
    ],
)
def test_status(wire: Any, status: str, reason: str) -> None:
    body = b"" if status[:3] in ("304", "204") else wire.JPEG
    answer, _ = wire.get(wire.always(wire.answer(body, status)))
    assert (answer.dropped, answer.status, answer.body) == (reason, int(status[:3]), b"")


@pytest.mark.parametrize(
    ("options", "data", "reason"),
    [
        ({}, (b"<html>no image</html>", "200 OK", "Content-Type: image/jpeg"), "not_image"),
        ({}, (b"", "200 OK"), "not_image"),
        ({}, (b"\xff\xd8\xff", "200 OK"), "not_image"),
        ({}, (b"\x1f\x8b\x08" + bytes(99), "200 OK", "Content-Encoding: gzip"), "not_image"),
        ({"max_mb": 0.001}, (b"\xff\xd8\xff" + bytes(1200), "200 OK"), "too_large"),
        ({}, (b"\xff\xd8\xff" + bytes(99), "200 OK", "X-Long: " + "x" * 9000), "too_large"),
    ],
)
def test_body(wire: Any, options: dict[str, Any], data: tuple[Any, ...], reason: str) -> None:
    answer, _ = wire.get(wire.always(wire.answer(*data)), **options)
    assert answer.dropped == reason


def test_encoded_label_on_plain_bytes_does_no_harm(wire: Any) -> None:
    answer, _ = wire.get(wire.always(wire.answer(wire.JPEG, "200 OK", "Content-Encoding: br")))
    assert (answer.dropped, answer.body) == (None, wire.JPEG)


def test_many_headers_and_no_http_at_all_cost_one_image(wire: Any) -> None:
    many = [f"X-{n}: 1" for n in range(300)]
    assert wire.get(wire.always(wire.answer(wire.JPEG, "200 OK", *many)))[0].dropped in ("incomplete", "too_large")
    assert wire.get(wire.always(b"SSH-2.0-OpenSSH\r\n\r\n"))[0].dropped == "incomplete"


def test_mime_and_location_of_odd_bytes(wire: Any) -> None:
    odd = wire.answer(wire.JPEG, "200 OK", "Content-Type: image/\udcff\udcfe")
    assert wire.get(wire.always(odd))[0].mime == "image/??"
    pages = {
        "/x.jpg": wire.answer(b"", "302 Found", redirect("/\udcc4\udce3.jpg")),
        "/%C4%E3.jpg": wire.answer(wire.JPEG),
    }
    answer, _ = wire.get(wire.site(pages))
    assert (answer.dropped, answer.final_url) == (None, "http://a.test/%C4%E3.jpg")


def test_short_body_is_incomplete(wire: Any) -> None:
    answer, _ = wire.get(wire.always(wire.answer(wire.JPEG, length=10_000)), "http://a.test/close.jpg")
    assert answer.dropped == "incomplete"


def test_endless_body_stops_at_the_size_limit(wire: Any) -> None:
    async def reply(path: str) -> AsyncIterator[bytes]:
        if path == "/robots.txt":
            yield wire.answer(b"", "404 Not Found")
            return
        yield b"HTTP/1.1 200 OK\r\n\r\n" + wire.JPEG
        while True:
            yield bytes(50_000)

    answer, _ = wire.get(reply, max_mb=0.2)
    assert answer.dropped == "too_large"


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n\xff\xd8\xff\xe0" + bytes(20)])
def test_drip_and_silence_end_at_the_deadline(wire: Any, head: bytes) -> None:
    async def reply(path: str) -> AsyncIterator[bytes]:
        if path == "/robots.txt":
            yield wire.answer(b"", "404 Not Found")
            return
        yield head
        while True:
            await asyncio.sleep(0.02)
            yield b"\0" if head else b""

    answer, _ = wire.get(reply, timeout_s=0.3)
    assert answer.dropped == "timeout"


def test_redirects_are_followed_and_bounded(wire: Any) -> None:
    pages = {
        "/x.jpg": wire.answer(b"", "301 Moved", redirect("../y.jpg?q=1")),
        "/y.jpg?q=1": wire.answer(b"", "307 Moved", redirect("http://b.test/z.jpg#part")),
        "/z.jpg": wire.answer(wire.JPEG),
        "/loop": wire.answer(b"", "302 Found", redirect("/loop")),
    }
    answer, raw = wire.get(wire.site(pages))
    assert (answer.dropped, answer.redirects, answer.final_url) == (None, 2, "http://b.test/z.jpg")
    assert raw.paths.count("/robots.txt") == 2  # one for each host
    answer, raw = wire.get(wire.site(pages), "http://a.test/loop", redirects=3)
    assert (answer.dropped, answer.redirects, raw.paths.count("/loop")) == ("redirects", 3, 4)


@pytest.mark.parametrize("contact", [None, "me@example.org"])
@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1:{port}/inside.jpg",
        "http://[::1]:{port}/inside.jpg",
        "//2130706433:{port}/inside.jpg",
        "http://0x7f.1:{port}/inside.jpg",
        "http://0:{port}/inside.jpg",
    ],
)
def test_redirect_inside_is_blocked_and_never_connected(
    wire: Any, connects: list[tuple[str, int]], location: str, contact: str | None
) -> None:
    async def use(client: Client, raw: Any) -> None:
        pages["/x.jpg"] = wire.answer(b"", "302 Found", redirect(location.replace("{port}", str(raw.port))))
        answer = await client.image(URL)
        assert (answer.dropped, answer.final_url, answer.status) == ("blocked_address", URL, 302)

    pages: dict[str, bytes] = {}
    raw = wire.ask(wire.site(pages), use, contact=contact)
    assert set(connects) == {("127.0.0.1", raw.port)}
    assert raw.paths == ["/robots.txt", "/x.jpg"]


@pytest.mark.parametrize("location", ["file:///etc/passwd", "http://user:word@a.test/", "gopher://a.test/"])
def test_redirect_to_no_web_address_is_bad_url(wire: Any, location: str) -> None:
    pages = {"/x.jpg": wire.answer(b"", "302 Found", redirect(location))}
    assert wire.get(wire.site(pages))[0].dropped == "bad_url"


HOSTILE = ["http://[bad", "http://a\u2100b/", "//[", "http://[v1.x]/"]


@pytest.mark.parametrize("location", HOSTILE)
def test_redirect_that_can_not_be_read_costs_one_image(wire: Any, location: str) -> None:
    pages = {"/x.jpg": wire.answer(b"", "302 Found", redirect(location)), "/y.jpg": wire.answer(wire.JPEG)}

    async def use(client: Client, raw: Any) -> None:
        answers = [await client.image(url) for url in (URL, "http://a.test/y.jpg")]
        assert [(a.dropped, a.final_url) for a in answers] == [("bad_url", URL), (None, "http://a.test/y.jpg")]

    wire.ask(wire.site(pages), use)


@pytest.mark.parametrize("location", HOSTILE)
def test_robots_redirect_that_can_not_be_read_allows_nothing(wire: Any, location: str) -> None:
    pages = {"/robots.txt": wire.answer(b"", "302 Found", redirect(location)), "/x.jpg": wire.answer(wire.JPEG)}

    async def use(client: Client, raw: Any) -> None:
        assert [(await client.image(URL)).dropped for _ in range(2)] == ["robots"] * 2
        assert await client.host(parse(URL)) == Host(fault="robots")

    assert wire.ask(wire.site(pages), use).paths == ["/robots.txt"]


@pytest.mark.parametrize("error", [ValueError, UnicodeError, aiohttp.ClientError, ssl.SSLError, EOFError])
def test_what_nobody_foresaw_costs_one_image(
    wire: Any, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def odd(*_: object) -> bool:
        raise error

    monkeypatch.setattr("toolkit.fetch.optout.refuses", odd)
    assert wire.get(wire.always(wire.answer(wire.JPEG)))[0].dropped == "incomplete"
    monkeypatch.setattr("toolkit.fetch.optout.rules", odd)
    pages = {"/robots.txt": wire.answer(b"User-agent: *")}
    assert wire.get(wire.site(pages))[0].dropped == "robots"


@pytest.mark.parametrize("error", [TypeError("ours"), WorkError("ours"), OSError(errno.EMFILE, "no more files")])
def test_fault_of_our_own_is_no_verdict(wire: Any, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def faulty(*_: object) -> bool:
        raise error

    monkeypatch.setattr("toolkit.fetch.optout.refuses", faulty)
    with pytest.raises((TypeError, WorkError)):
        wire.get(wire.always(wire.answer(wire.JPEG)))


def test_image_that_nobody_answered_for_has_no_final_url(wire: Any) -> None:
    answer, _ = wire.get(wire.always(b""), "http://8.8.8.8/x.jpg")
    assert (answer.dropped, answer.final_url) == ("blocked_address", None)
    pages = {"/robots.txt": wire.answer(b"User-agent: *\nDisallow: /")}
    assert wire.get(wire.site(pages))[0].final_url is None


def test_broken_tls_does_not_cost_the_images_without_it(wire: Any) -> None:
    async def use(client: Client, raw: Any) -> None:
        urls = [f"https://a.test/{n}.jpg" for n in range(DOWN_AFTER + 1)]
        found = [(await client.image(url)).dropped for url in urls]
        assert found == [found[0]] * DOWN_AFTER + ["host_down"] and found[0] in ("tls", "connect")
        assert (await client.image(URL)).dropped is None

    wire.ask(wire.always(wire.answer(wire.JPEG)), use)


def test_refused_port_says_nothing_about_the_host(wire: Any) -> None:
    known = {
        "http://www.example.org": Host(("8.8.8.8",)),
        "http://www.example.org:22": Host(fault="blocked_address"),
    }

    async def use(client: Client, raw: Any) -> None:
        assert await client._session.resolver.addresses("www.example.org") == (("8.8.8.8",), None)
        assert (await client.image("http://www.example.org:22/")).dropped == "blocked_address"

    wire.ask(wire.always(b""), use, contact="me@example.org", known=known)


PRIVATE = ["127.0.0.1", "10.0.0.1", "169.254.169.254", "100.64.0.1", "::1", "::ffff:127.0.0.1", "fd00::1", "fe80::1"]


def test_name_of_a_private_address_is_blocked_and_never_connected(wire: Any, connects: list[tuple[str, int]]) -> None:
    asked: list[str] = []

    async def lookup(host: str) -> list[str]:
        asked.append(host)
        return PRIVATE

    async def use(client: Client, raw: Any) -> None:
        urls = [f"http://www.example.org:{raw.port}/{n}.jpg" for n in range(3)]
        answers = await asyncio.gather(*map(client.image, urls))
        assert {answer.dropped for answer in answers} == {"blocked_address"}

    raw = wire.ask(wire.always(wire.answer()), use, contact="me@example.org", lookup=lookup)
    assert asked == ["www.example.org"]  # once
    assert connects == [] and raw.requests == []


def test_rebinding_name_keeps_its_first_public_pins(wire: Any) -> None:
    answers = iter([["127.0.0.1", "203.0.113.7", "8.8.8.8", "1.1.1.1"], ["127.0.0.1"]])

    async def lookup(host: str) -> list[str]:
        return next(answers)

    async def use(client: Client, raw: Any) -> None:
        first = await client._session.resolver.addresses("www.example.org")
        assert first == await client._session.resolver.addresses("www.example.org") == (("1.1.1.1", "8.8.8.8"), None)

    wire.ask(wire.always(wire.answer()), use, contact="me@example.org", lookup=lookup)


def test_poisoned_pin_opens_no_socket(wire: Any, connects: list[tuple[str, int]]) -> None:
    """What a fault of our own look-up filter would do: the socket factory refuses."""

    async def use(client: Client, raw: Any) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            client._session.resolver.pin("www.example.org", ("127.0.0.1",), None)
            answer = await client.image(f"http://www.example.org:{other.getsockname()[1]}/x.jpg")
        assert answer.dropped == "blocked_address"

    wire.ask(wire.always(wire.answer()), use, contact="me@example.org", robots=False)
    assert connects == []


def test_connection_to_anothers_target_sends_nothing(wire: Any) -> None:
    """The target of *.test may be opened, but only for *.test: the peer check refuses it for other hosts."""

    async def use(client: Client, raw: Any) -> None:
        client._session.resolver.pin("www.example.org", ("127.0.0.1",), None)
        answer = await client.image(f"http://www.example.org:{raw.port}/x.jpg")
        assert answer.dropped == "blocked_address"

    raw = wire.ask(wire.always(wire.answer()), use, contact="me@example.org", robots=False)
    assert raw.requests == []


def test_without_contact_other_hosts_are_neither_looked_up_nor_connected(
    wire: Any, connects: list[tuple[str, int]], lookups: list[str]
) -> None:
    async def lookup(host: str) -> list[str]:
        raise AssertionError(host)

    for url in ("http://www.example.org/x.jpg", "http://8.8.8.8/x.jpg", "https://localhost/x.jpg"):
        assert wire.get(wire.always(wire.answer()), url, lookup=lookup)[0].dropped == "blocked_address"
    assert connects == [] and lookups == []


def test_unknown_name_is_dns_and_asked_once(wire: Any) -> None:
    asked: list[str] = []

    async def lookup(host: str) -> list[str]:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    async def use(client: Client, raw: Any) -> None:
        for _ in range(2):
            assert (await client.image("http://no.example.org/x.jpg")).dropped == "dns"

    wire.ask(wire.always(wire.answer()), use, contact="me@example.org", lookup=lookup, retries=2)
    assert asked == ["no.example.org"]


def test_machine_without_network_is_no_verdict(wire: Any) -> None:
    async def lookup(host: str) -> list[str]:
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    async def use(client: Client, raw: Any) -> None:
        with pytest.raises(WorkError, match="reaches no network"):
            for n in range(100):
                await client.image(f"http://h{n}.example.org/x.jpg")

    wire.ask(wire.always(wire.answer()), use, contact="me@example.org", lookup=lookup)


def test_failed_connections_are_tried_again_then_the_host_is_down(
    wire: Any, connects: list[tuple[str, int]], closed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.fetch.session.BACKOFF_S", 0.0)

    async def use(client: Client, raw: Any) -> None:
        found = [(await client.image(f"http://b.closed/{n}.jpg")).dropped for n in range(DOWN_AFTER + 2)]
        assert found == ["connect"] * DOWN_AFTER + ["host_down"] * 2
        assert (await client.image("http://c.closed/x.jpg")).dropped == "connect"

    resolve = {"*.closed": f"127.0.0.1:{closed}"}
    wire.ask(wire.always(wire.answer()), use, retries=1, resolve=resolve, robots=False)
    assert connects == [("127.0.0.1", closed)] * 2 * (DOWN_AFTER + 1)


def test_robots_of_a_dead_host_tell_why_nothing_may_be_fetched(wire: Any, closed: int) -> None:
    options: dict[str, Any] = {"resolve": {"*.test": f"127.0.0.1:{closed}"}}
    assert wire.get(wire.always(b""), URL, **options)[0].dropped == "connect"

    async def silent(path: str) -> AsyncIterator[bytes]:
        await asyncio.sleep(30)
        yield b""

    answer, raw = wire.get(silent, timeout_s=2)
    assert answer.dropped == "timeout" and raw.paths == ["/robots.txt"]


def test_server_fault_is_tried_again(wire: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.fetch.session.BACKOFF_S", 0.0)
    left = [wire.answer(b"", "503 Later"), wire.answer(wire.JPEG)]

    async def reply(path: str) -> AsyncIterator[bytes]:
        yield left.pop(0)

    answer, raw = wire.get(reply, retries=1, robots=False)
    assert (answer.dropped, answer.status, len(raw.requests)) == (None, 200, 2)


def test_opt_out_stops_before_the_body_and_at_redirects(wire: Any) -> None:
    async def reply(path: str) -> AsyncIterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\nX-Robots-Tag: nofollow\r\nX-Robots-Tag: NoAI\r\n\r\n"
        await asyncio.sleep(30)

    answer, _ = wire.get(reply, robots=False)
    assert (answer.dropped, answer.status) == ("opt_out", 200)
    pages = {
        "/x.jpg": wire.answer(b"", "302 Found", redirect("/y.jpg"), "X-Robots-Tag: noindex"),
        "/y.jpg": wire.answer(wire.JPEG),
    }
    answer, raw = wire.get(wire.site(pages))
    assert answer.dropped == "opt_out" and "/y.jpg" not in raw.paths
    other = wire.answer(wire.JPEG, "200 OK", "X-Robots-Tag: otherbot: noai")
    assert wire.get(wire.always(other))[0].dropped is None


@pytest.mark.parametrize(
    ("robots", "dropped"),
    [
        (("User-agent: *\nDisallow: /x", "200 OK"), "robots"),
        (("User-agent: *\nDisallow: /y", "200 OK"), None),
        (("gone", "403 Forbidden"), None),
        (("broken", "500 Broken"), "robots"),
        (("User-agent: *\nAllow: /\n" + "#" * 600_000 + "\nUser-agent: *\nDisallow: /x", "200 OK"), None),
    ],
)
def test_robots(wire: Any, robots: tuple[str, str], dropped: str | None) -> None:
    pages = {"/robots.txt": wire.answer(robots[0].encode(), robots[1]), "/x.jpg": wire.answer(wire.JPEG)}
    answer, raw = wire.get(wire.site(pages))
    assert answer.dropped == dropped
    assert ("/x.jpg" in raw.paths) == (dropped is None)
    assert wire.get(wire.site(pages), robots=False)[0].dropped is None


def test_robots_redirect_is_followed_but_not_inside(wire: Any) -> None:
    rule = wire.answer(b"User-agent: danqing-toolkit\nDisallow: /")
    pages = {"/robots.txt": wire.answer(b"", "301 Moved", redirect("http://b.test/rules")), "/rules": rule}
    assert wire.get(wire.site(pages))[0].dropped == "robots"
    pages["/robots.txt"] = wire.answer(b"", "301 Moved", redirect("http://127.0.0.1/rules"))
    assert wire.get(wire.site(pages))[0].dropped == "robots"


def test_known_hosts_are_not_asked_again(wire: Any) -> None:
    known = {
        "http://a.test": Host(robots="User-agent: *\nDisallow: /x"),
        "http://b.test": Host(fault="robots"),
        "http://c.test": Host(),
    }
    page = wire.always(wire.answer(wire.JPEG))
    assert wire.get(page, URL, known=known)[0].dropped == "robots"
    assert wire.get(page, "http://b.test/y.jpg", known=known)[0].dropped == "robots"
    answer, raw = wire.get(page, "http://c.test/y.jpg", known=known)
    assert answer.dropped is None and raw.paths == ["/y.jpg"]
    known = {"http://www.example.org": Host(fault="dns")}
    assert wire.get(page, "http://www.example.org/", known=known, contact="me@example.org")[0].dropped == "dns"


def test_no_more_than_per_host_connections(wire: Any) -> None:
    async def use(client: Client, raw: Any) -> None:
        answers = await asyncio.gather(*(client.image(f"http://a.test/{n}.jpg") for n in range(30)))
        assert {answer.dropped for answer in answers} == {None}

    async def reply(path: str) -> AsyncIterator[bytes]:
        await asyncio.sleep(0.005)
        yield wire.answer(wire.JPEG)

    assert wire.ask(reply, use, per_host=3, robots=False).most == 3


def test_waiting_for_a_turn_does_not_cost_the_deadline(wire: Any) -> None:
    async def use(client: Client, raw: Any) -> None:
        answers = await asyncio.gather(*(client.image(f"http://a.test/{n}.jpg") for n in range(20)))
        assert {answer.dropped for answer in answers} == {None}

    async def reply(path: str) -> AsyncIterator[bytes]:
        await asyncio.sleep(0.2)
        yield wire.answer(wire.JPEG)

    wire.ask(reply, use, per_host=1, timeout_s=3, robots=False)  # the last one ends after 4 s


def test_tls_is_verified_and_keeps_the_name_of_the_url(
    wire: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("a.test").configure_cert(context)
    names: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    page = wire.always(wire.answer(wire.JPEG))
    assert wire.get(page, "https://a.test/x.jpg", tls=context, robots=False)[0].dropped == "tls"
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    answer, raw = wire.get(page, "https://a.test/x.jpg", tls=context, robots=False)
    assert answer.dropped is None and "Host: a.test\r\n" in raw.requests[0]
    assert wire.get(page, "https://b.test/x.jpg", tls=context, robots=False)[0].dropped == "tls"
    assert names == ["a.test", "a.test", "b.test"]
    assert wire.get(page, "https://a.test/x.jpg", robots=False)[0].dropped == "connect"  # no TLS there
    with socket.create_server(("127.0.0.1", 0)) as silent:
        options = {"resolve": {"*.test": f"127.0.0.1:{silent.getsockname()[1]}"}, "connect_s": 0.2}
        assert wire.get(page, "https://a.test/x.jpg", robots=False, **options)[0].dropped == "connect"


def test_probe_names_a_target_where_nothing_answers(wire: Any, closed: int) -> None:
    async def use(client: Client, raw: Any) -> None:
        with pytest.raises(WorkError, match=f"nothing answers at 127.0.0.1:{closed}"):
            await client.probe()

    wire.ask(wire.always(b""), use, resolve={"*.test": f"127.0.0.1:{closed}"})


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({}, "fetch.contact is missing"),
        ({"resolve": {"*.test": "8.8.8.8:80"}}, "fetch.contact is missing"),
        ({"resolve": {"*.test": "127.0.0.1:80", "*.org": "10.0.0.1:80"}}, "fetch.contact is missing"),
        ({"resolve": {"*.test": "localhost:80"}}, "no address:port"),
        ({"resolve": {"*.test": "127.0.0.1"}}, "no address:port"),
        ({"contact": "me"}, "fetch.contact is 'me'"),
        ({"contact": "me@a.org\r\nX: y"}, "fetch.contact is"),
    ],
)
def test_check_refuses(options: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=word):
        check(SimpleNamespace(fetch=Fetch(**options)))


@pytest.mark.parametrize(
    "options",
    [
        {"contact": "me@a.org"},
        {"contact": "https://a.org/us"},
        {"resolve": {"*.test": "127.0.0.1:80", "b": "[::1]:81"}},
    ],
)
def test_check_accepts(options: dict[str, Any]) -> None:
    check(SimpleNamespace(fetch=Fetch(**options)))
