"""Servers that misbehave, a client that asks them, and a record of every connection that this process tries."""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import pytest

from toolkit.config.fetch import Fetch
from toolkit.fetch.client import Answer, Client, Host, Lookup, runner

JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 8
HELLO = b"\x16"  # the first byte of TLS
Reply = Callable[[str], AsyncIterator[bytes]]

_connects: list[tuple[str, int]] = []
_lookups: list[str] = []


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        _connects.append(arguments[1][:2])
    if event == "socket.getaddrinfo":
        _lookups.append(str(arguments[0]))


sys.addaudithook(_audit)


@pytest.fixture
def connects() -> list[tuple[str, int]]:
    """Every address that this process tries to connect to in the test, told by the interpreter itself."""
    _connects.clear()
    return _connects


@pytest.fixture
def lookups() -> list[str]:
    """Every name that this process gives to the system's resolver in the test."""
    _lookups.clear()
    return _lookups


@pytest.fixture
def closed() -> Iterator[int]:
    """A port of loopback that refuses connections: it is held, so that nobody else gets it, but not listened at."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def answer(body: bytes = JPEG, status: str = "200 OK", *headers: str, length: int | None = None) -> bytes:
    """A plain HTTP answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body


def always(data: bytes) -> Reply:
    """The same bytes for every path; robots.txt is missing."""

    async def reply(path: str) -> AsyncIterator[bytes]:
        yield answer(b"", "404 Not Found") if path == "/robots.txt" else data

    return reply


def site(pages: dict[str, bytes]) -> Reply:
    """Bytes by path, 404 elsewhere."""

    async def reply(path: str) -> AsyncIterator[bytes]:
        yield pages.get(path, answer(b"", "404 Not Found"))

    return reply


@dataclass
class Raw:
    """A server on loopback that sends whatever bytes `reply(path)` gives, and writes down what it was asked.

    Without `tls` it hangs up on who speaks TLS.
    """

    reply: Reply
    tls: ssl.SSLContext | None = None
    requests: list[str] = field(default_factory=list)
    port: int = 0
    most: int = 0
    _open: int = 0

    async def __aenter__(self) -> Raw:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    @property
    def paths(self) -> list[str]:
        return [request.split(" ")[1] for request in self.requests]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        self.most = max(self.most, self._open)
        try:
            while (first := await reader.readexactly(1)) != HELLO:
                request = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                self.requests.append(request)
                async for data in self.reply(request.split(" ")[1]):
                    writer.write(data)
                    await writer.drain()
                if request.split(" ")[1].startswith("/close"):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._open -= 1
            writer.close()


Use = Callable[[Client, Raw], Awaitable[object]]


def ask(
    reply: Reply,
    use: Use,
    *,
    robots: bool = True,
    known: dict[str, Host] | None = None,
    lookup: Lookup | None = None,
    tls: ssl.SSLContext | None = None,
    **options: object,
) -> Raw:
    """Start a server that *.test leads to, and use a client on it."""

    async def main() -> Raw:
        async with Raw(reply, tls) as raw:
            resolve = {"*.test": f"127.0.0.1:{raw.port}"}
            fetch = Fetch(**{"resolve": resolve, "retries": 0, **options})
            async with Client(fetch, robots, known or {}, lookup) as client:
                await use(client, raw)
        return raw

    with runner() as loop:
        return loop.run(main())


def get(reply: Reply, url: str = "http://a.test/x.jpg", **options: object) -> tuple[Answer, Raw]:
    """Download one image from such a server."""
    answers: list[Answer] = []

    async def use(client: Client, raw: Raw) -> None:
        answers.append(await client.image(url.replace("{port}", str(raw.port))))

    raw = ask(reply, use, **options)
    return answers[0], raw


class Wire:
    """The helpers above, as one fixture (test folders are no packages here)."""

    JPEG = JPEG
    answer = staticmethod(answer)
    always = staticmethod(always)
    site = staticmethod(site)
    ask = staticmethod(ask)
    get = staticmethod(get)


@pytest.fixture
def wire() -> type[Wire]:
    return Wire
