"""Connections that lead only where the guard allows; what lies between a URL and a socket.

Three checks, each of which would do alone: addresses are filtered when a name is looked up, once, and pinned; the
socket factory sees every address just before it is connected to; the peer of a connection, new or kept alive, is
compared with the host's before a request is sent on it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from toolkit.fetch.addresses import DropError, Guard, numeric, public

KEEPALIVE_S = 2.0  # images of one page come together; longer only collects idle sockets of 100 hosts a second
LOOKUPS = 64  # threads that wait for getaddrinfo

# Looks a name up: host -> addresses; raises socket.gaierror.
Lookup = Callable[[str], Awaitable[list[str]]]
T = TypeVar("T")


async def cached(cache: dict[str, asyncio.Future[T]], key: str, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Return the cached result of `make`; a caller that gives up does not cancel it for the others."""
    if key not in cache:
        cache[key] = asyncio.ensure_future(make())
    return await asyncio.shield(cache[key])


class Resolver:
    """Names looked up once: host -> (public addresses, fault), pinned for the life of the client."""

    def __init__(self, guard: Guard, lookup: Lookup | None) -> None:
        self._guard = guard
        self._pool = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="lookup")
        self._lookup = lookup or self._system
        self._found: dict[str, asyncio.Future[tuple[tuple[str, ...], str | None]]] = {}
        self.worked = False
        self.failed = 0

    async def addresses(self, host: str) -> tuple[tuple[str, ...], str | None]:
        """Return the sorted public addresses of a host, or why there are none: dns, blocked_address."""
        return await cached(self._found, host, lambda: self._resolve(host))

    def pin(self, host: str, addresses: tuple[str, ...], fault: str | None) -> None:
        """Take over what an earlier look-up found."""
        self._found[host] = future = asyncio.get_running_loop().create_future()
        future.set_result((addresses, fault))

    async def _resolve(self, host: str) -> tuple[tuple[str, ...], str | None]:
        if numeric(host):
            return (host,), None
        try:
            found = await self._lookup(host)
            self.worked = True
        except (OSError, ValueError) as error:  # ValueError: a name that no resolver takes
            self.failed += getattr(error, "errno", None) == socket.EAI_AGAIN
            found = []
        addresses = tuple(sorted({a for a in found if public(a)}))
        fault = None if addresses else "blocked_address" if found else "dns"
        return addresses, fault

    async def _system(self, host: str) -> list[str]:
        # The dot at the end keeps the resolver from trying the name inside this site's own search domains.
        loop = asyncio.get_running_loop()
        for further in (True, False):
            try:
                infos = await loop.run_in_executor(
                    self._pool, lambda: socket.getaddrinfo(f"{host}.", None, type=socket.SOCK_STREAM)
                )
                return [str(info[4][0]) for info in infos]
            except socket.gaierror as error:
                if error.errno != socket.EAI_AGAIN or not further:
                    raise
        return []

    def close(self) -> None:
        """Wait for no look-up any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class _PinnedResolver(AbstractResolver):
    """Gives aiohttp what Guard and Resolver decided; asks nobody."""

    def __init__(self, guard: Guard, resolver: Resolver) -> None:
        self._guard, self._resolver = guard, resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        target = self._guard.mapped(host)
        if target is not None:
            ends: list[tuple[str, int]] = [(target.address, target.port)]
        else:
            addresses, fault = await self._resolver.addresses(host)
            if fault:
                raise DropError(fault)
            ends = [(address, port) for address in addresses]
        return [
            ResolveResult(hostname=host, host=a, port=p, family=family, proto=0, flags=socket.AI_NUMERICHOST)
            for a, p in ends
        ]

    async def close(self) -> None:
        pass


class GuardedConnector(aiohttp.TCPConnector):
    """Opens no socket to an address that the guard does not reach, and sends nothing to another peer."""

    def __init__(self, guard: Guard, resolver: Resolver) -> None:
        super().__init__(
            resolver=_PinnedResolver(guard, resolver),
            use_dns_cache=False,
            limit=0,
            keepalive_timeout=KEEPALIVE_S,
            socket_factory=self._open,
            ssl=ssl.create_default_context(),
        )
        self._guard = guard

    def _open(self, info: Any) -> socket.socket:
        family, kind, protocol, _, (address, port, *_rest) = info
        if not self._guard.reaches(address, port):
            raise DropError("blocked_address")
        return socket.socket(family, kind, protocol)

    async def connect(self, req: Any, traces: Any, timeout: Any) -> Any:
        """Return a connection, new or kept alive, whose peer is one of the host's; raises DropError."""
        connection = await super().connect(req, traces, timeout)
        peer = connection.transport.get_extra_info("peername") if connection.transport else None
        if peer is None:
            connection.close()
            raise aiohttp.ServerDisconnectedError
        if not self._guard.leads(req.url.raw_host, peer[0], peer[1]):
            connection.close()
            raise DropError("blocked_address")
        return connection
