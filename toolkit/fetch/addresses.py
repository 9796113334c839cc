"""Which URLs are asked for and which addresses are connected to; every byte of a URL is hostile.

Promise: a URL is read once, here, and its parts are all that later code sees, so no second parser can read it
otherwise. Only public addresses are connected to; `fetch.resolve` is the only exception.

- Only http and https; no user name or password in the URL; ports 80, 443 and from 1024 up (below lie the mail, shell
  and file services that a crawled link has no business with).
- A host that ends in a number is an IPv4 address in one of the old spellings (2130706433, 0x7f.1, 0177.0.0.1); it is
  read by the rules of the WHATWG URL standard, as browsers do, and never by the operating system's resolver.
- IPv6 addresses that carry an IPv4 address: v4-mapped and NAT64 (64:ff9b::/96) are judged by what they carry; 6to4
  and Teredo, both retired, are refused.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import IPv4Address as IPv4
from ipaddress import IPv6Address as IPv6
from typing import Final
from urllib.parse import quote, urljoin, urlsplit

from yarl import URL

PORTS: Final = {"http": 80, "https": 443}
LONGEST_URL = 8_000  # RFC 9110 asks servers for at least 8,000 octets; longer ones are answered with 414
_HOST = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_NETLOC = re.compile(r"(\[[^\[\]]*:[^\[\]]*\]|[^\[\]:]*)(:[0-9]*)?")  # only an IPv6 address stands in brackets
_NUMBER = re.compile(r"(0x[0-9a-f]*|[0-9]+)")
_KEPT = "%/:=&?~+!$,;'@()*[]"  # legal in path or query, or (%) already quoted

# Where ipaddress of some Python 3.11 still says "global", or where an IPv4 address hides.
_REFUSED_V4 = [
    ipaddress.IPv4Network(n)
    for n in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    )
]
_UNICAST_V6 = ipaddress.IPv6Network("2000::/3")  # all that IANA gives to the public internet
_REFUSED_V6 = [
    ipaddress.IPv6Network(n) for n in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
]  # IETF protocols with Teredo, documentation, 6to4, documentation
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class DropError(Exception):
    """The image can not be had; `reason` is the part of the step's name after "fetch."."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Target:
    """A URL taken apart: ASCII host (canonical where it is an address), port, path with query, quoted."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Return the host, with its port where that is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """Return scheme and authority: what has one robots.txt (RFC 9309 2.3)."""
        return f"{self.scheme}://{self.authority}"

    @property
    def url(self) -> str:
        """Return the URL that is asked for."""
        return f"{self.origin}{self.path}"


def parse(url: str) -> Target:
    """Take a URL apart; raises DropError("bad_url") where it is not a plain http or https URL."""
    try:
        parts = urlsplit(url.strip())
        port, name = parts.port, parts.hostname or ""
        if parts.scheme not in PORTS or len(url) > LONGEST_URL or port == 0:
            raise ValueError
        if "@" in parts.netloc or not _NETLOC.fullmatch(parts.netloc):
            raise ValueError
        host = _host(name)
        path = _quoted(parts.path or "/") + (f"?{_quoted(parts.query)}" if parts.query else "")
    except ValueError:  # UnicodeError is one
        raise DropError("bad_url") from None
    return Target(parts.scheme, host, port or PORTS[parts.scheme], path)


def joined(base: str, location: str) -> str:
    """Return where a Location header leads, not yet parsed; raises DropError("bad_url") where that can not be said."""
    try:
        return urljoin(base, location)
    except ValueError:  # "http://[bad", "http://a℀b/"
        raise DropError("bad_url") from None


def _quoted(text: str) -> str:
    # A redirect's header may hold raw bytes of any encoding, which aiohttp gives as lone surrogates.
    return quote(text, safe=_KEPT, errors="surrogateescape")


def _host(name: str) -> str:
    if ":" in name:
        return str(IPv6(name)) if "%" not in name else _refuse(name)
    ascii_name = (URL.build(scheme="http", host=name).raw_host or "").lower().removesuffix(".")
    if not _HOST.fullmatch(ascii_name) or len(ascii_name) > 253:
        return _refuse(name)
    return ascii_name if (address := literal(ascii_name)) is None else str(address)


def _refuse(name: str) -> str:
    raise ValueError(name)


def literal(host: str) -> IPv4 | None:
    """Return the IPv4 address that a host spells, None for a name; raises ValueError for a spoilt number."""
    labels = host.split(".")
    if not _NUMBER.fullmatch(labels[-1]):
        return None
    numbers = [_number(label) for label in labels]
    if len(numbers) > 4 or any(n > 255 for n in numbers[:-1]) or numbers[-1] >= 256 ** (5 - len(numbers)):
        raise ValueError(host)
    high = sum(n * 256 ** (3 - place) for place, n in enumerate(numbers[:-1]))
    return IPv4(high + numbers[-1])


def _number(label: str) -> int:
    if not _NUMBER.fullmatch(label):
        raise ValueError(label)
    if label.startswith("0x"):
        return int(label[2:] or "0", 16)
    return int(label, 8) if len(label) > 1 and label[0] == "0" else int(label)


def numeric(host: str) -> bool:
    """Return whether a host of a Target is an address."""
    return ":" in host or _NUMBER.fullmatch(host.rpartition(".")[2]) is not None


def public(address: str) -> bool:
    """Return whether an address, as getaddrinfo or getpeername spell it, belongs to the public internet."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    return _public_v4(ip) if isinstance(ip, IPv4) else _public_v6(ip)


def _public_v4(ip: IPv4) -> bool:
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _REFUSED_V4)


def _public_v6(ip: IPv6) -> bool:
    if ip.scope_id is not None:
        return False
    if ip.ipv4_mapped is not None:
        return _public_v4(ip.ipv4_mapped)
    if ip in _NAT64:
        return _public_v4(IPv4(int(ip) & 0xFFFF_FFFF))
    return ip in _UNICAST_V6 and ip.is_global and not any(ip in network for network in _REFUSED_V6)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address and a port, as `fetch.resolve` names them."""

    address: str
    port: int

    @property
    def loopback(self) -> bool:
        """Return whether this is the machine itself."""
        return ipaddress.ip_address(self.address).is_loopback


def endpoint(text: str) -> Endpoint:
    """Read "127.0.0.1:8123" or "[::1]:8123"; raises ValueError."""
    address, separator, port = text.rpartition(":")
    bare = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    if not separator or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(text)
    return Endpoint(str(ipaddress.ip_address(bare)), int(port))


class Guard:
    """Says for each host where it may lead. `closed`: nowhere but to the targets of `fetch.resolve`.

    Patterns name hosts, with * for any characters; the first that fits counts. Literal addresses fit none.
    """

    def __init__(self, resolve: Mapping[str, str], closed: bool) -> None:
        self.resolve = {pattern.lower(): endpoint(target) for pattern, target in resolve.items()}
        self.closed = closed

    def mapped(self, host: str) -> Endpoint | None:
        """Return where `fetch.resolve` leads a host name, or None."""
        if numeric(host):
            return None
        return next((end for pattern, end in self.resolve.items() if fnmatchcase(host, pattern)), None)

    def admit(self, target: Target) -> None:
        """Refuse what needs no look-up to be refused; raises DropError("blocked_address")."""
        if self.mapped(target.host) is not None:
            return
        port_allowed = target.port in PORTS.values() or target.port >= 1024
        if self.closed or not port_allowed or (numeric(target.host) and not public(target.host)):
            raise DropError("blocked_address")

    def reaches(self, address: str, port: int) -> bool:
        """Return whether a socket may be opened to this address at all."""
        return Endpoint(address, port) in self.resolve.values() or (not self.closed and public(address))

    def leads(self, host: str, address: str, port: int) -> bool:
        """Return whether a connection made for this host may lead to this address."""
        target = self.mapped(host)
        if target is not None:
            return target == Endpoint(address, port)
        return not self.closed and public(address)
