"""Options of the stages that go to the network: hosts, fetch."""

from __future__ import annotations

from pydantic import Field

from toolkit.config.section import Section, local


class Hosts(Section):
    """Each host is resolved and its robots.txt read once per run."""

    robots: bool = True
    """Obey robots.txt (RFC 9309); false is for hosts of your own."""


class Fetch(Section):
    """The downloader."""

    contact: str | None = local(None)
    """A page or mail address, sent in the User-Agent, where a site's owner can reach you. May be missing only if all
    `resolve` targets are loopback addresses; every other host is then refused as blocked_address."""

    resolve: dict[str, str] = local(default_factory=dict)
    """Host pattern -> address:port, like curl --connect-to; the only exception to the address guard. * stands for any
    characters, the first pattern that fits counts, and literal addresses fit none."""

    timeout_s: float = Field(20.0, gt=0)
    """Longest time for one image from first look-up to last byte, redirects and further tries included; waiting for a
    turn (concurrency, per_host) does not count."""

    connect_s: float = Field(5.0, gt=0)
    """Longest time for one connection, TLS included."""

    max_mb: float = Field(20.0, gt=0)
    """Largest image file in 10^6 bytes."""

    redirects: int = Field(5, ge=0)
    """Most redirects followed."""

    retries: int = Field(1, ge=0)
    """Further tries after a connection failed, timed out, or a 5xx (a second buys under 1 %, img2dataset #361)."""

    concurrency: int = local(128, ge=1)
    """Images under way at once in one task."""

    per_host: int = local(8, ge=1)
    """Connections to one host at once in one task."""

    opt_out: tuple[str, ...] = ("noai", "noimageai", "noindex", "noimageindex", "none")
    """X-Robots-Tag values that refuse the use of an image."""

    checkpoint: int = local(5000, ge=1)
    """Images after which finished downloads are made safe against a kill."""
