"""The downloader: one guarded HTTP client for a task, which tells what happened to each image in one word.

Promise: a connection is made only to a public address or to a target of `fetch.resolve` (connector.py). Redirects are
followed here, each hop through the same checks from the start. No proxy, password or cookie is taken from the
environment or kept; TLS is always verified, against the system's certificates or SSL_CERT_FILE.

Time, size and number are bounded: one deadline per image, which stands still only while the image waits for its turn
behind others of ours; bytes are counted as they come; at most `concurrency` requests, `per_host` to one host. Bodies
are asked for without Content-Encoding and never inflated, so an encoded body is `not_image` and no bomb can go off.
"""

from __future__ import annotations

import asyncio
import errno
import resource
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Self
from urllib.parse import urljoin
from weakref import WeakValueDictionary

import aiohttp
import uvloop
from aiohttp.http_exceptions import LineTooLong
from yarl import URL

import toolkit
from toolkit.config.fetch import Fetch
from toolkit.errors import UserError, WorkError
from toolkit.fetch import optout
from toolkit.fetch.addresses import DropError, Guard, Target, endpoint, parse
from toolkit.fetch.connector import GuardedConnector, Lookup, Names, once

REASONS: Final = (
    *("bad_url", "dns", "connect", "tls", "timeout", "http_4xx", "http_5xx", "redirects", "too_large"),
    *("incomplete", "not_image", "opt_out", "robots", "blocked_address", "host_down"),
)
RETRIED: Final = frozenset({"connect", "http_5xx"})  # a connection that timed out is "connect"
BACKOFF_S = 0.5  # before the first further try; doubled for each one after it
DOWN_AFTER = 8  # images of a host, one after the other, whose connection failed; then the host is host_down
BIG_BYTES, BIG_BODIES = 1_000_000, 16  # bodies beyond 1 MB are held in memory by at most 16 images at once
HEADER_BYTES, HEADERS = 8_190, 100  # of one header line, and lines
NO_ROUTE = 64  # look-ups and connections failed for want of a network, none worked: then it is not the images' fault
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
FILES = 65_536  # sockets of busy and idle connections

_ACCEPT = "image/jpeg, image/png, image/webp, image/gif, */*;q=0.1"
_NO_NETWORK = frozenset({errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL})
_NO_FILES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(slots=True)
class Answer:
    """What became of one image; `dropped` is null, or one of REASONS."""

    dropped: str | None = None
    status: int | None = None
    mime: str | None = None
    final_url: str | None = None
    redirects: int = 0
    kind: str | None = None  # jpg, png, webp, gif by the first bytes
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Host:
    """What is known of an authority: public addresses, the rules for us (None: all allowed), a fault."""

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


def agent(contact: str | None) -> str:
    """Return the User-Agent that is sent."""
    return f"{optout.AGENT}/{toolkit.__version__}" + (f" (+{contact})" if contact else "")


def runner() -> asyncio.Runner:
    """Return an event loop runner on uvloop."""
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


def sniff(head: bytes) -> str | None:
    """Return the file ending of an allowed image format by its first 12 bytes, or None."""
    if head.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    return "webp" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else None


@dataclass
class Client:
    """The network as one task sees it; use as `async with`, inside one event loop.

    `known` is what the stage `hosts` found, by authority; other hosts are looked up, and their robots.txt is read,
    when they are first met. `lookup` replaces the system's resolver.
    """

    fetch: Fetch
    robots: bool = True
    known: Mapping[str, Host] = field(default_factory=dict)
    lookup: Lookup | None = None

    async def __aenter__(self) -> Self:
        fetch = self.fetch
        self._guard = Guard(fetch.resolve, closed=fetch.contact is None)
        self._names = Names(self._guard, self.lookup)
        self._slots = asyncio.Semaphore(fetch.concurrency)
        self._big = asyncio.Semaphore(BIG_BODIES)
        self._gates: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._rules: dict[str, asyncio.Future[tuple[str | None, str | None]]] = {}
        self._failures: Counter[str] = Counter()  # images in a row, by host, whose connection failed
        self._connected = False
        self._unreachable = 0
        self._pin_known()
        self._session = aiohttp.ClientSession(
            connector=GuardedConnector(self._guard, self._names),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": agent(fetch.contact), "Accept-Encoding": "identity"},
            auto_decompress=False,
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=fetch.connect_s),
            max_line_size=HEADER_BYTES,
            max_field_size=HEADER_BYTES,
            max_headers=HEADERS,
        )
        return self

    def _pin_known(self) -> None:
        for authority, host in self.known.items():
            target = parse(f"http://{authority}")
            fault = host.fault if host.fault in ("dns", "blocked_address") else None
            if host.addresses or fault:
                self._names.pin(target.host, host.addresses, fault)
            if fault is None:
                self._rules[authority] = rules = asyncio.get_running_loop().create_future()
                rules.set_result((host.robots, host.fault))

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        for task in self._rules.values():
            task.cancel()
        self._names.close()

    async def probe(self) -> None:
        """Connect once to each target of `fetch.resolve`; raises WorkError where nothing answers."""
        for pattern, end in self._guard.resolve.items():
            try:
                async with asyncio.timeout(self.fetch.connect_s):
                    _, writer = await asyncio.open_connection(end.address, end.port)
            except OSError as error:  # TimeoutError is one
                raise WorkError(
                    f"nothing answers at {self.fetch.resolve.get(pattern, end)}, where fetch.resolve leads {pattern} "
                    f"({error or 'timed out'}). Start that server and run again."
                ) from error
            writer.close()

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
                    await asyncio.sleep(BACKOFF_S * 2**attempt)
        except TimeoutError:
            answer.dropped = "timeout"
        self._remember(answer, url)
        if answer.dropped is not None:
            answer.body, answer.kind = b"", None
        return answer

    def _remember(self, answer: Answer, url: str) -> None:
        if answer.dropped in ("connect", "tls"):
            self._failures[parse(answer.final_url or url).host] += 1

    async def _follow(self, url: str, answer: Answer, deadline: asyncio.Timeout) -> None:
        """Go from hop to hop; each one is parsed, guarded, held against robots.txt, and waits for its turn."""
        while True:
            target = parse(url)
            answer.final_url = target.url
            self._guard.admit(target)
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
        if self._failures[target.host] >= DOWN_AFTER:
            raise DropError("host_down")
        await self._find(target)
        if self.robots:
            async with _paused(deadline):  # the reading has a deadline of its own
                rules, fault = await self._rules_of(target)
            if fault or not optout.allows(rules, target.url):
                raise DropError(fault or "robots")

    async def _find(self, target: Target) -> None:
        if self._guard.mapped(target.host) is None:
            _, fault = await self._names.pins(target.host)
            self._complain()
            if fault:
                raise DropError(fault)

    async def _exchange(self, target: Target, answer: Answer, deadline: asyncio.Timeout) -> str | None:
        """Send one request; fill the answer, or return where it redirects to."""
        async with AsyncExitStack() as stack:
            with self._faults("connect"):
                response = await stack.enter_async_context(self._request(target, _ACCEPT))
            self._failures.pop(target.host, None)
            answer.status, answer.mime = response.status, _mime(response)
            if 200 <= response.status < 400 and optout.refuses(
                response.headers.getall("X-Robots-Tag", ()), self.fetch.opt_out
            ):
                raise DropError("opt_out")
            if response.status in REDIRECTS and "Location" in response.headers:
                return urljoin(target.url, str(response.headers["Location"]))
            _judge(response.status)
            with self._faults("incomplete"):
                answer.body = await self._image_body(response, deadline)
            answer.kind = sniff(answer.body[:12])
        return None

    def _request(self, target: Target, accept: str) -> Any:
        return self._session.get(URL(target.url, encoded=True), allow_redirects=False, headers={"Accept": accept})

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

    async def _rules_of(self, target: Target) -> tuple[str | None, str | None]:
        """Return the rules of the target's robots.txt for us and the fault, read once for each authority.

        Where robots.txt can not be had nothing may be fetched (RFC 9309 2.3.1.4); the fault says why it could not.
        """
        return await once(self._rules, target.authority, lambda: self._read_robots(target))

    async def _read_robots(self, target: Target) -> tuple[str | None, str | None]:
        for attempt in range(self.fetch.retries + 1):
            try:
                async with asyncio.timeout(self.fetch.timeout_s):
                    return optout.rules(await self._robots_text(target)), None
            except TimeoutError:
                return None, "timeout"
            except DropError as drop:
                if drop.reason == "http_4xx":
                    return None, None
                if drop.reason not in RETRIED or attempt == self.fetch.retries:
                    return None, drop.reason if drop.reason in ("connect", "tls") else "robots"
            await asyncio.sleep(BACKOFF_S * 2**attempt)
        return None, "robots"

    async def _robots_text(self, target: Target) -> str:
        url = f"{target.scheme}://{target.authority}/robots.txt"
        for _ in range(self.fetch.redirects + 1):
            hop = parse(url)
            self._guard.admit(hop)
            await self._find(hop)
            async with AsyncExitStack() as stack:
                with self._faults("connect"):
                    response = await stack.enter_async_context(self._request(hop, "text/plain, */*;q=0.1"))
                if response.status not in REDIRECTS or "Location" not in response.headers:
                    _judge(response.status)
                    with self._faults("incomplete"):
                        return await _text(response)
                url = urljoin(hop.url, response.headers["Location"])
        raise DropError("redirects")

    async def host(self, target: Target) -> Host:
        """Look a host up and read its robots.txt, for the stage `hosts`."""
        try:
            self._guard.admit(target)
        except DropError as drop:
            return Host(fault=drop.reason)
        addresses: tuple[str, ...] = ()
        async with self._slots:
            if self._guard.mapped(target.host) is None:
                addresses, fault = await self._names.pins(target.host)
                self._complain()
                if fault:
                    return Host(fault=fault)
            rules, fault = await self._rules_of(target) if self.robots else (None, None)
        return Host(addresses, rules, fault)

    @contextmanager
    def _faults(self, otherwise: str) -> Iterator[None]:
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
            self._blame(getattr(error, "errno", None))
            raise DropError(otherwise) from error

    def _blame(self, number: int | None) -> None:
        if number in _NO_FILES:
            raise WorkError(
                "this process may open no more files (sockets are files): raise `ulimit -n`, or lower "
                "fetch.concurrency, and run again. Finished parts are kept."
            )
        self._unreachable += number in _NO_NETWORK
        self._complain()

    def _complain(self) -> None:
        if not self._connected and not self._names.worked and self._unreachable + self._names.failed >= NO_ROUTE:
            raise WorkError(
                f"this machine reaches no network: {NO_ROUTE} look-ups or connections failed and none worked. Run the "
                "stages hosts and fetch on a node with a route to the internet (often a data-transfer node)."
            )


def _line_too_long(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, LineTooLong):
        error = error.__cause__
    return error is not None


def _mime(response: aiohttp.ClientResponse) -> str | None:
    header = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return header.encode("ascii", "replace").decode() or None


def _judge(status: int) -> None:
    if status >= 500:
        raise DropError("http_5xx")
    if status >= 400:
        raise DropError("http_4xx")
    if status >= 300:
        raise DropError("redirects")  # one that can not be followed: 300, 304, or no Location
    if status == 206:
        raise DropError("incomplete")  # nobody asked for a part


async def _text(response: aiohttp.ClientResponse) -> str:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > optout.ROBOTS_BYTES:
            body = body[: body.rfind(b"\n", 0, optout.ROBOTS_BYTES) + 1]
            break
    return body.decode("utf-8", "replace")


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
