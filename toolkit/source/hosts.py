"""Hosts of addresses, and the blacklist of hosts, which covers all their subdomains.

The built-in list has 4,558,939 hosts and comes inside the package `datatrove` (Apache-2.0; a wheel of 17 MB, nearly all
of it the list), whose FineWeb filter uses it; none of that package's code is imported. By form and size it is the
category `adult` of the UT1 blacklists of Université Toulouse Capitole. The package repeats no licence for it: to our
knowledge it is Creative Commons BY-SA, to be looked up at dsi.ut-capitole.fr/blacklists before the list is passed on.
Nothing here copies it. The paper's own list is not published; no portal such as baidu.com (2.65 % of the published
pairs) is on this one. A file of one host a line replaces it.

The list is sorted, so it is kept as one text of 124 MB and searched by halving: exact, ready in half a second, where a
set of its strings takes 400 MB more and another 2.5 seconds in every task.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import ipaddress
import re
import socket
import tarfile
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from isal import igzip
from yarl import URL

from toolkit.errors import UserError, WorkError

# Hosts remembered with their verdict; neighbours in a crawl share hosts, so a small memory answers most questions.
_REMEMBERED = 100_000
_HOST = re.compile(r"[a-z][a-z0-9+.\-]*://(?:[^/?#\\@]*@)?(\[[^\]/?#]*\]|[^/?#\\:@]*)", re.IGNORECASE)
# What begins no address, and what is passed over inside one (WHATWG).
_BEFORE = "".join(map(chr, range(0x21)))
_INSIDE = re.compile("[\t\r\n]")
_NUMBERS = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)(?:\.(?:0x[0-9a-f]*|[0-9]+)){0,3}")
# The dots of IDNA (RFC 3490, 3.1).
_DOTS = ".\u3002\uff0e\uff61"


def host(url: str) -> str:
    """Return the host of an absolute address in lower case, without user, port and last dots; "" where none.

    Blanks around an address, and tabs and line ends inside it, are no part of it: whoever asks for the address drops
    them, so the host must be seen behind them.
    """
    found = _HOST.match(_INSIDE.sub("", url.strip().lstrip(_BEFORE)))
    return found.group(1).lower().rstrip(_DOTS) if found else ""


def suffixes(name: str) -> Iterator[str]:
    """Return the host name and its parents: a.b.c, b.c, c."""
    while name:
        yield name
        name = name.partition(".")[2]


@cache
def blacklist(source: str) -> Callable[[str], bool]:
    """Return the test whether a host or one of its parents is on the list: "builtin", or a file of one host a line.

    In a file, blank lines and what follows # are passed over. Raises UserError where the file can not be read.
    """
    contains = _Sorted(_builtin()).__contains__ if source == "builtin" else _file(source).__contains__

    @lru_cache(_REMEMBERED)
    def listed(name: str) -> bool:
        return any(contains(part) for part in suffixes(_canonical(name)))

    return listed


def _canonical(name: str) -> str:
    """Return the name as lists write it and the downloader connects to it: punycode, one spelling of an address."""
    if name.startswith("[") or ":" in name:
        with contextlib.suppress(ValueError):
            return str(ipaddress.IPv6Address(name.strip("[]")))
        return name
    with contextlib.suppress(ValueError):  # a name that yarl refuses can not be asked for
        name = URL.build(scheme="http", host=name).raw_host or ""
    name = name.lower().rstrip(_DOTS)
    if _NUMBERS.fullmatch(name):
        with contextlib.suppress(OSError):
            return socket.inet_ntoa(socket.inet_aton(name))
    return name


def lines(path: str, what: str) -> list[str]:
    """Return the entries of a list file: one a line, comments and blank lines left out."""
    try:
        text = Path(path).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{what} {path!r} can not be read: {error}. Expected a UTF-8 text file of one entry a line; correct the "
            "path in the configuration, or set it to null."
        ) from error
    entries = (line.partition("#")[0].strip() for line in text.splitlines())
    return [entry for entry in entries if entry]


def _file(path: str) -> frozenset[str]:
    entries = (entry.lower().removeprefix("*.").strip(".") for entry in lines(path, "the host blacklist"))
    return frozenset(_canonical(entry) for entry in entries)


def _builtin() -> bytes:
    spec = importlib.util.find_spec("datatrove")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    archives = [path for folder in folders for path in Path(folder).glob("assets/url_filterblacklists*.tar.gz")]
    if not archives:
        raise UserError(
            "source.blacklist is builtin, but the package datatrove, which carries the list, is not installed or holds "
            "no assets/url_filterblacklists*.tar.gz. Install datatrove 0.10, give a file of one host a line, or null."
        )
    with (
        io.BufferedReader(cast(Any, igzip).IGzipFile(max(archives)), 1 << 20) as raw,
        tarfile.open(fileobj=raw, mode="r|") as archive,
    ):
        for member in archive:
            if member.name == "domains" and (stream := archive.extractfile(member)) is not None:
                return stream.read()
    raise WorkError(f"{max(archives)} holds no member `domains`; install datatrove 0.10 again")


class _Sorted:
    """A set of lines, kept as one sorted text of them."""

    # Every so many bytes the order is looked at, so that an unsorted list is refused rather than searched in vain.
    STRIDE = 1 << 16

    def __init__(self, text: bytes) -> None:
        self._text = text
        probes = [self._line(at)[2] for at in range(0, len(text), self.STRIDE)]
        if any(a > b for a, b in pairwise(probes)):
            raise WorkError("the built-in host list is not sorted; install datatrove 0.10")

    def _line(self, at: int) -> tuple[int, int, bytes]:
        """Return the line that holds this place, which may be its newline: where it starts, where it ends, and it."""
        start = self._text.rfind(b"\n", 0, at) + 1
        end = self._text.find(b"\n", at)
        end = len(self._text) if end < 0 else end
        return start, end, self._text[start:end]

    def __contains__(self, name: str) -> bool:
        wanted = name.encode("utf-8", "replace")
        low, high = 0, len(self._text)
        while low < high:
            start, end, line = self._line((low + high) // 2)
            if line == wanted:
                return True
            low, high = (end + 1, high) if line < wanted else (low, start)
        return False
