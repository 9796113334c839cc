"""The downloader: one guarded HTTP client for a task, which tells what happened to each image in one word.

Promise: redirects are followed here, each hop through the same checks from the start (session.py says what they are).
Whatever one image's exchange raises becomes that image's reason; only faults of this machine or of ours go further.

Time, size and number are bounded: one deadline per image, which stands still only while the image waits for its turn
behind others of ours; bytes are counted as they come; at most `concurrency` requests, `per_host` to one host. Bodies
are asked for without Content-Encoding and never inflated, so an encoded body is `not_image` and no bomb can go off.
"""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, Self
from weakref import WeakValueDictionary

import aiohttp
import uvloop

from toolkit.config.fetch import Fetch
from toolkit.data.formats import sniff
from toolkit.errors import UserError
from toolkit.fetch import optout
from toolkit.fetch.addresses import DropError, Target, endpoint, parse
from toolkit.fetch.connector import Lookup
from toolkit.fetch.robots import Robots
from toolkit.fetch.session import ODD, RETRIED, Session, backoff, judge, leads

REASONS: Final = (
    *("bad_url", "dns", "connect", "tls", "timeout", "http_4xx", "http_5xx", "redirects", "too_large"),
    # incomplete: the answer was cut short or broken, be it in a way that nobody foresaw (ODD)
    *("incomplete", "not_image", "opt_out", "robots", "blocked_address", "host_down"),
)
DOWN_AFTER = 8  # images of an origin, one after the other, whose connection failed; then it is host_down
BIG_BYTES, BIG_BODIES = 1_000_000, 16  # bodies beyond 1 MB are held in memory by at most 16 images at once
FILES = 65_536  # sockets of busy and idle connections

_ACCEPT = "image/jpeg, image/png, image/webp, image/gif, */*;q=0.1"


@dataclass(slots=True)
class Answer:
    """What became of one image; `dropped` is null, or one of REASONS."""

    dropped: str | None = None
    status: int | None = None
    mime: str | None = None
    final_url: str | None = None  # of the last hop that answered, as status and mime are
    redirects: int = 0
    kind: str | None = None  # jpg, png, webp, gif by the first bytes
    body: bytes = b""
    asked: str | None = None  # origin of the hop last asked for


@dataclass(frozen=True, slots=True)
class Host:
    """What is known of an origin: public addresses, the rules for us (None: all allowed), a fault."""

    addresses: tuple[str, ...] = ()
    robots: str | None = None
    fault: str | None = None


def check(config: Any) -> None:
    """Check what fetching needs before anything starts; raises UserError.

    `contact` may be missing only where every connection goes to this machine.
    """
    fetch: Fetch = config.fetch
    for pattern, target in fetch.resolve.items():
        try:
            endpoint(target)
        except ValueError:
            raise UserError(
                f"fetch.resolve: {pattern!r} leads to {target!r}, which is no address:port such as 127.0.0.1:8123 or "
                "[::1]:8123. Host names are not looked up here; give the address."
            ) from None
    if fetch.contact is None and not (fetch.resolve and all(endpoint(t).loopback for t in fetch.resolve.values())):
        raise UserError(
            "fetch.contact is missing: the owners of the sites must be able to reach whoever downloads from them. Set "
            "fetch.contact to a page or mail address that you read; it is sent in the User-Agent. (Only a run whose "
            "fetch.resolve targets are all loopback addresses may do without.)"
        )
    if fetch.contact is not None and not _contactable(fetch.contact):
        raise UserError(
            f"fetch.contact is {fetch.contact!r}; expected one mail address or one http(s) page, in ASCII, without "
            "spaces or brackets, because it is sent in the User-Agent header."
        )


def _contactable(contact: str) -> bool:
    plain = contact.isascii() and contact.isprintable() and not set(contact) & set(' ()<>"\\')
    return plain and ("@" in contact or contact.startswith(("http://", "https://")))


def runner() -> asyncio.Runner:
    """Return an event loop runner on uvloop."""
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


@dataclass
class Client:
    """The network as one task sees it; use as `async with`, inside one event loop.

    `known` is what the stage `hosts` found, by origin; other hosts are looked up, and their robots.txt is read,
    when they are first met. `lookup` replaces the system's resolver.
    """

    fetch: Fetch
    robots: bool = True
    known: Mapping[str, Host] = field(default_factory=dict)
    lookup: Lookup | None = None

    async def __aenter__(self) -> Self:
        self._slots = asyncio.Semaphore(self.fetch.concurrency)
        self._big = asyncio.Semaphore(BIG_BODIES)
        self._gates: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._failures: Counter[str] = Counter()  # images in a row, by origin, whose connection failed
        self._session = Session(self.fetch, self.lookup)
        self._rules = Robots(self.fetch, self._session)
        self._pin_known()
        await self._session.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._rules.close()
        await self._session.__aexit__()

    async def probe(self) -> None:
        """Connect once to each target of `fetch.resolve`; raises WorkError where nothing answers."""
        await self._session.probe()

    def _pin_known(self) -> None:
        for origin, host in self.known.items():
            target = parse(origin)
            with suppress(DropError):  # a port that is refused says nothing about the name
                self._session.guard.admit(target)
                self._pin(target, host)

    def _pin(self, target: Target, host: Host) -> None:
        fault = host.fault if host.fault in ("dns", "blocked_address") else None
        if host.addresses or fault:
            self._session.resolver.pin(target.host, host.addresses, fault)
        if fault is None:
            self._rules.pin(target.origin, (host.robots, host.fault))

    async def image(self, url: str) -> Answer:
        """Download one image; whatever the network does ends in the answer's `dropped`.

        Raises WorkError where this machine is at fault: no network, no free file handles.
        """
        answer = Answer()
        try:
            async with asyncio.timeout(self.fetch.timeout_s) as deadline:
                for attempt in range(self.fetch.retries + 1):
                    answer = Answer()
                    try:
                        await self._follow(url, answer, deadline)
                        break
                    except DropError as drop:
                        answer.dropped = drop.reason
                    if answer.dropped not in RETRIED or attempt == self.fetch.retries:
                        break
                    await backoff(attempt)
        except TimeoutError:
            answer.dropped = "timeout"
        except ODD as error:
            self._session.blame(getattr(error, "errno", None))
            answer.dropped = "incomplete"
        if answer.dropped in ("connect", "tls") and answer.asked is not None:
            self._failures[answer.asked] += 1
        if answer.dropped is not None:
            answer.body, answer.kind = b"", None
        return answer

    async def _follow(self, url: str, answer: Answer, deadline: asyncio.Timeout) -> None:
        """Go from hop to hop; each one is parsed, guarded, held against robots.txt, and waits for its turn."""
        while True:
            target = parse(url)
            answer.asked = target.origin
            self._session.guard.admit(target)
            async with self._turn(target.host, deadline):
                await self._permit(target, deadline)
                location = await self._exchange(target, answer, deadline)
            if location is None:
                return
            if answer.redirects == self.fetch.redirects:
                raise DropError("redirects")
            answer.redirects += 1
            url = location

    @asynccontextmanager
    async def _turn(self, host: str, deadline: asyncio.Timeout) -> AsyncIterator[None]:
        """Hold a place at the host, then one of the client's: in this order, both anew for each hop, so that no two
        images wait for each other."""
        gate = self._gates.setdefault(host, asyncio.Semaphore(self.fetch.per_host))
        async with _held(gate, deadline), _held(self._slots, deadline):
            yield

    async def _permit(self, target: Target, deadline: asyncio.Timeout) -> None:
        if self._failures[target.origin] >= DOWN_AFTER:
            raise DropError("host_down")
        await self._session.find(target)
        if self.robots:
            async with _paused(deadline):  # the reading has a deadline of its own
                rules, fault = await self._rules.ruling(target)
            if fault or not optout.allows(rules, target.url):
                raise DropError(fault or "robots")

    async def _exchange(self, target: Target, answer: Answer, deadline: asyncio.Timeout) -> str | None:
        """Send one request; fill the answer, or return where it redirects to."""
        async with self._session.ask(target, _ACCEPT) as response:
            self._failures.pop(target.origin, None)
            answer.final_url, answer.status, answer.mime = target.url, response.status, _mime(response)
            if 200 <= response.status < 400 and optout.refuses(
                response.headers.getall("X-Robots-Tag", ()), self.fetch.opt_out
            ):
                raise DropError("opt_out")
            if (location := leads(response, target.url)) is not None:
                return location
            judge(response.status)
            with self._session.faults("incomplete"):
                answer.body = await self._image_body(response, deadline)
            answer.kind = sniff(answer.body[:12])
        return None

    async def _image_body(self, response: aiohttp.ClientResponse, deadline: asyncio.Timeout) -> bytes:
        limit = int(self.fetch.max_mb * 1e6)
        if (response.content_length or 0) > limit:
            raise DropError("too_large")
        body = bytearray()
        looked = False
        async with AsyncExitStack() as stack:
            async for chunk in response.content.iter_any():
                before = len(body)
                body += chunk
                if len(body) > limit:
                    raise DropError("too_large")
                if not looked and len(body) >= 12:
                    looked = True
                    if sniff(bytes(body[:12])) is None:
                        raise DropError("not_image")
                if before <= BIG_BYTES < len(body):
                    await stack.enter_async_context(_held(self._big, deadline))
        if not looked:
            raise DropError("not_image")
        return bytes(body)

    async def host(self, target: Target) -> Host:
        """Look a host up and read its robots.txt, for the stage `hosts`."""
        async with self._slots:
            try:
                self._session.guard.admit(target)
                addresses = await self._session.find(target)
            except DropError as drop:
                return Host(fault=drop.reason)
            rules, fault = await self._rules.ruling(target) if self.robots else (None, None)
        return Host(addresses, rules, fault)


def _mime(response: aiohttp.ClientResponse) -> str | None:
    header = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return header.encode("ascii", "replace").decode() or None


@asynccontextmanager
async def _paused(deadline: asyncio.Timeout) -> AsyncIterator[None]:
    """Let a deadline stand still."""
    loop = asyncio.get_running_loop()
    left = (deadline.when() or loop.time()) - loop.time()
    deadline.reschedule(None)
    try:
        yield
    finally:
        deadline.reschedule(loop.time() + left)


@asynccontextmanager
async def _held(gate: asyncio.Semaphore, deadline: asyncio.Timeout) -> AsyncIterator[None]:
    """Hold a place; the time until it is free does not count."""
    if gate.locked():
        async with _paused(deadline):
            await gate.acquire()
    else:
        await gate.acquire()
    try:
        yield
    finally:
        gate.release()


def open_files() -> None:
    """Let this process open as many sockets as the system allows without asking."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES if hard == resource.RLIM_INFINITY else min(hard, FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
