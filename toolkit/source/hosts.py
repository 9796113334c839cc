"""Hosts of addresses, and the blacklist of hosts, which covers all their subdomains.

The built-in list is the adult category of the blacklists of Université Toulouse Capitole (UT1), 4,558,939 hosts,
licence CC BY-SA 4.0, kept up to date by its authors and the list that FineWeb was built with. It comes inside the
package `datatrove` (Apache-2.0; a wheel of 17 MB, of which 18 MB compressed is the list); no code of that package is
imported. The paper's own list is not published; no portal such as baidu.com (2.65 % of the published pairs) is on
this one. A file of one host a line replaces it.

The list is sorted, so it is kept as one text of 124 MB and searched by halving: exact, ready in half a second, where a
set of that many strings would take 400 MB and several seconds in every task.
"""

from __future__ import annotations

import importlib.util
import io
import re
import tarfile
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from isal import igzip

from toolkit.errors import UserError, WorkError

# Hosts remembered with their verdict; neighbours in a crawl share hosts, so a small memory answers most questions.
_REMEMBERED = 100_000
_HOST = re.compile(r"[a-z][a-z0-9+.\-]*://(?:[^/?#\\@]*@)?(\[[^\]/?#]*\]|[^/?#\\:@]*)", re.IGNORECASE)


def host(url: str) -> str:
    """Return the host of an absolute address in lower case, without user, port and last dot; "" where none."""
    found = _HOST.match(url)
    return found.group(1).lower().rstrip(".") if found else ""


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
        return any(contains(part) for part in suffixes(_ascii(name)))

    return listed


def _ascii(name: str) -> str:
    """Return the name as lists write it: international names in punycode."""
    if name.isascii():
        return name
    try:
        return name.encode("idna").decode("ascii")
    except UnicodeError:
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
    return frozenset(_ascii(entry) for entry in entries)


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
        self._text = b"\n" + text.strip(b"\n") + b"\n"
        probes = [self._line(at) for at in range(1, len(self._text) - 1, self.STRIDE)]
        if any(a > b for a, b in pairwise(probes)):
            raise WorkError("the built-in host list is not sorted; install datatrove 0.10")

    def _line(self, at: int) -> bytes:
        """Return the line that holds the byte at this place, its own newline or that before it left out."""
        start = self._text.rfind(b"\n", 0, at) + 1
        return self._text[start : self._text.index(b"\n", start)]

    def __contains__(self, name: str) -> bool:
        wanted = name.encode("utf-8", "replace")
        low, high = 1, len(self._text)  # starts of lines: low is one, high is one or the end
        while low < high:
            middle = (low + high) // 2
            start = self._text.rfind(b"\n", 0, middle) + 1
            end = self._text.index(b"\n", start)
            line = self._text[start:end]
            if line == wanted:
                return True
            if line < wanted:
                low = end + 1
            else:
                high = start
        return False
