"""Reads robots.txt (RFC 9309), once for each origin; what its rules mean is optout.py's.

Promise: 4xx means that there are no rules. Where robots.txt can not be had otherwise nothing may be fetched
(RFC 9309 2.3.1.4), and the fault says why it could not.
"""

from __future__ import annotations

import asyncio

import aiohttp

from toolkit.config.fetch import Fetch
from toolkit.fetch import optout
from toolkit.fetch.addresses import DropError, Target, parse
from toolkit.fetch.connector import cached
from toolkit.fetch.session import ODD, RETRIED, Session, backoff, judge, leads

Ruling = tuple[str | None, str | None]  # the rules for us (None: all allowed), the fault

_ACCEPT = "text/plain, */*;q=0.1"


class Robots:
    """The rules of every origin that the session meets."""

    def __init__(self, fetch: Fetch, session: Session) -> None:
        self._fetch, self._session = fetch, session
        self._found: dict[str, asyncio.Future[Ruling]] = {}

    def pin(self, origin: str, ruling: Ruling) -> None:
        """Take over what an earlier reading found."""
        self._found[origin] = future = asyncio.get_running_loop().create_future()
        future.set_result(ruling)

    def close(self) -> None:
        """Read nothing any more."""
        for reading in self._found.values():
            reading.cancel()

    async def ruling(self, target: Target) -> Ruling:
        """Return the rules of the target's origin for us and the fault: connect, tls, timeout, robots."""
        return await cached(self._found, target.origin, lambda: self._read(target))

    async def _read(self, target: Target) -> Ruling:
        for attempt in range(self._fetch.retries + 1):
            try:
                async with asyncio.timeout(self._fetch.timeout_s):
                    return optout.rules(await self._text(target)), None
            except TimeoutError:
                return None, "timeout"
            except ODD as error:
                self._session.blame(getattr(error, "errno", None))
                return None, "robots"
            except DropError as drop:
                if drop.reason == "http_4xx":
                    return None, None
                if drop.reason not in RETRIED or attempt == self._fetch.retries:
                    return None, drop.reason if drop.reason in ("connect", "tls") else "robots"
            await backoff(attempt)
        return None, "robots"

    async def _text(self, target: Target) -> str:
        url = f"{target.origin}/robots.txt"
        for _ in range(self._fetch.redirects + 1):
            hop = parse(url)
            self._session.guard.admit(hop)
            await self._session.find(hop)
            async with self._session.ask(hop, _ACCEPT) as response:
                if (location := leads(response, hop.url)) is None:
                    judge(response.status)
                    with self._session.faults("incomplete"):
                        return await _head(response)
            url = location
        raise DropError("redirects")


async def _head(response: aiohttp.ClientResponse) -> str:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > optout.ROBOTS_BYTES:
            body = body[: body.rfind(b"\n", 0, optout.ROBOTS_BYTES) + 1]
            break
    return body.decode("utf-8", "replace")
