"""One guarded HTTP session: asks for one URL once, and names in one word what went wrong.

Promise: a connection is made only to a public address or to a target of `fetch.resolve` (connector.py). No proxy,
password or cookie is taken from the environment or kept; TLS is always verified, against the system's certificates or
SSL_CERT_FILE. What the network does raises DropError; what this machine lacks raises WorkError.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Final, Self

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from yarl import URL

import toolkit
from toolkit.config.fetch import Fetch
from toolkit.errors import WorkError
from toolkit.fetch.addresses import DropError, Guard, Target, joined
from toolkit.fetch.connector import GuardedConnector, Lookup, Resolver
from toolkit.fetch.optout import AGENT

# What a hostile answer may still raise somewhere below: it costs its image only. Faults of our own are no part of it.
ODD: Final = (ValueError, OSError, EOFError, aiohttp.ClientError, HttpProcessingError)
RETRIED: Final = frozenset({"connect", "http_5xx"})  # a connection that timed out is "connect"
BACKOFF_S = 0.5  # before the first further try; doubled for each one after it
HEADER_BYTES, HEADERS = 8_190, 100  # of one header line, and lines
NO_ROUTE = 64  # look-ups and connections failed for want of a network, none worked: then it is not the images' fault
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

_NO_NETWORK = frozenset({errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL})
_NO_FILES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def agent(contact: str | None) -> str:
    """Return the User-Agent that is sent."""
    return f"{AGENT}/{toolkit.__version__}" + (f" (+{contact})" if contact else "")


async def backoff(attempt: int) -> None:
    """Wait after the attempt, counted from 0, before the next one."""
    await asyncio.sleep(BACKOFF_S * 2**attempt)


def leads(response: aiohttp.ClientResponse, base: str) -> str | None:
    """Return where an answer redirects to, None where it does not; raises DropError("bad_url")."""
    if response.status in REDIRECTS and "Location" in response.headers:
        return joined(base, response.headers["Location"])
    return None


def judge(status: int) -> None:
    """Raise DropError unless a body may follow this status."""
    if status >= 500:
        raise DropError("http_5xx")
    if status >= 400:
        raise DropError("http_4xx")
    if status >= 300:
        raise DropError("redirects")  # one that can not be followed: 300, 304, or no Location
    if status == 206:
        raise DropError("incomplete")  # nobody asked for a part


class Session:
    """Connections of one client; use as `async with`, inside one event loop."""

    def __init__(self, fetch: Fetch, lookup: Lookup | None) -> None:
        self.guard = Guard(fetch.resolve, closed=fetch.contact is None)
        self.resolver = Resolver(self.guard, lookup)
        self._fetch = fetch
        self._connected = False
        self._unreachable = 0

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(
            connector=GuardedConnector(self.guard, self.resolver),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": agent(self._fetch.contact), "Accept-Encoding": "identity"},
            auto_decompress=False,
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._fetch.connect_s),
            max_line_size=HEADER_BYTES,
            max_field_size=HEADER_BYTES,
            max_headers=HEADERS,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()
        self.resolver.close()

    async def probe(self) -> None:
        """Connect once to each target of `fetch.resolve`; raises WorkError where nothing answers."""
        for pattern, end in self.guard.resolve.items():
            try:
                async with asyncio.timeout(self._fetch.connect_s):
                    _, writer = await asyncio.open_connection(end.address, end.port)
            except OSError as error:  # TimeoutError is one
                raise WorkError(
                    f"nothing answers at {self._fetch.resolve.get(pattern, end)}, where fetch.resolve leads {pattern} "
                    f"({error or 'timed out'}). Start that server and run again."
                ) from error
            writer.close()

    async def find(self, target: Target) -> tuple[str, ...]:
        """Return the public addresses of a host, none where `fetch.resolve` leads elsewhere; raises DropError."""
        if self.guard.mapped(target.host) is not None:
            return ()
        addresses, fault = await self.resolver.addresses(target.host)
        self._complain()
        if fault:
            raise DropError(fault)
        return addresses

    @asynccontextmanager
    async def ask(self, target: Target, accept: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one GET and give the answer, its body not yet read; follows no redirect. Raises DropError, WorkError."""
        url = URL(target.url, encoded=True)
        async with AsyncExitStack() as stack:
            with self.faults("connect"):
                request = self._http.get(url, allow_redirects=False, headers={"Accept": accept})
                response = await stack.enter_async_context(request)
            yield response

    @contextmanager
    def faults(self, otherwise: str) -> Iterator[None]:
        """Name what aiohttp raises; `otherwise` is the reason before and after the answer began."""
        try:
            yield
            self._connected = True
        except (aiohttp.ClientSSLError, aiohttp.ClientConnectorCertificateError) as error:
            raise DropError("tls") from error
        except aiohttp.InvalidURL as error:
            raise DropError("bad_url") from error
        except aiohttp.ClientResponseError as error:
            raise DropError("too_large" if _line_too_long(error) else "incomplete") from error
        except aiohttp.ClientPayloadError as error:
            raise DropError("incomplete") from error
        except (aiohttp.ClientConnectionError, ConnectionError) as error:
            self.blame(getattr(error, "errno", None))
            raise DropError(otherwise) from error

    def blame(self, number: int | None) -> None:
        """Raise WorkError where an error number says that this machine is at fault."""
        if number in _NO_FILES:
            raise WorkError(
                "this process may open no more files (sockets are files): raise `ulimit -n`, or lower "
                "fetch.concurrency, and run again. Finished parts are kept."
            )
        self._unreachable += number in _NO_NETWORK
        self._complain()

    def _complain(self) -> None:
        if not self._connected and not self.resolver.worked and self._unreachable + self.resolver.failed >= NO_ROUTE:
            raise WorkError(
                f"this machine reaches no network: {NO_ROUTE} look-ups or connections failed and none worked. Run the "
                "stages hosts and fetch on a node with a route to the internet (often a data-transfer node)."
            )


def _line_too_long(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, LineTooLong):
        error = error.__cause__
    return error is not None
