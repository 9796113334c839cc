"""Who asks not to be used: X-Robots-Tag headers and the rules of robots.txt (RFC 9309), pure functions of text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from protego import Protego

AGENT = "danqing-toolkit"  # the product token that robots.txt and X-Robots-Tag may name
ROBOTS_BYTES = 500 * 1024  # RFC 9309 2.5: at least this much is read

_NAME = re.compile(r"[A-Za-z*][\w.*-]*")
_VALUED = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})


def refuses(headers: Iterable[str], values: Iterable[str]) -> bool:
    """Return whether X-Robots-Tag headers hold one of `values` for every agent or for ours.

    "noai, noindex", "somebot: noai", "danqing-toolkit: noai, noindex": a name scopes what follows in its header.
    """
    refused = {value.lower() for value in values}
    return any(value in refused for header in headers for value in _directives(header))


def _directives(header: str) -> Iterator[str]:
    ours = True
    for token in header.lower().split(","):
        name, colon, value = (part.strip() for part in token.partition(":"))
        if colon and name in _VALUED:
            continue
        if colon and _NAME.fullmatch(name):
            ours = name in ("*", AGENT)
        if ours:
            yield value if colon else name


def rules(robots: str) -> str | None:
    """Return what a robots.txt says to our agent as a robots.txt of one group, or None where all is allowed.

    Groups that name our agent win over groups for *; the rules of several such groups are joined.
    """
    groups = list(_groups(robots))
    ours = [lines for agents, lines in groups if AGENT in agents]
    named = ours or [lines for agents, lines in groups if "*" in agents]
    lines = [line for group in named for line in group]
    if not any(line.startswith("Disallow") for line in lines):
        return None
    return "\n".join(["User-agent: *", *lines, ""])


def _groups(robots: str) -> Iterator[tuple[set[str], list[str]]]:
    agents: set[str] = set()
    lines: list[str] = []
    closed = False  # whether a rule has followed, so that the next User-agent opens a new group
    for raw in robots.removeprefix("\ufeff").splitlines():
        field, _, value = (part.strip() for part in raw.partition("#")[0].partition(":"))
        if field.lower() == "user-agent":
            if closed:
                yield agents, lines
                agents, lines, closed = set(), [], False
            agents.add(value.partition("/")[0].strip().lower())
        elif field.lower() in ("allow", "disallow"):
            closed = True
            if value:
                lines.append(f"{field.capitalize()}: {value}")
    yield agents, lines


def allows(robots: str | None, url: str) -> bool:
    """Return whether rules as `rules` gives them allow a URL; longest match wins, and Allow wins a tie."""
    return robots is None or _parsed(robots).can_fetch(url, AGENT)


@lru_cache(maxsize=1024)
def _parsed(robots: str) -> Protego:
    return Protego.parse(robots)
