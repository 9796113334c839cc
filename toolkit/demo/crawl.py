"""The demo's crawl on disk: WAT and WARC files, the site's pictures and answers, and the truth about every pair.

    wat/CC-MAIN-...-00000.warc.wat.gz    warc/CC-MAIN-...-00000.warc.gz    the same pages both ways
    site/                                 files that the server sends
    site.json                             address -> {file, status, type, headers, location, location_file}, one a line
    truth.jsonl                           one planted pair a line, in the order of the crawl
    hosts.txt                             the host blacklist for `source.blacklist`

Promise: the same seed and number of pairs give the same bytes; memory does not grow with the number of pairs, but for
the names of the drawn pictures (at most 14,000). No file is opened here: `create` does it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import IO, Any

from toolkit.demo import plan
from toolkit.demo.pictures import FILES
from toolkit.demo.records import CRAWL, Twin

PAIRS_PER_FILE = 5_000
LEAST_FILES = 4

# Opens a file of the crawl for writing, by its path inside the crawl; closing it publishes it.
Create = Callable[[str], IO[bytes]]


@dataclass(kw_only=True, slots=True)
class Summary:
    """What was made: numbers of pairs, pages, crawl files of each form, and picture files; pairs by kind."""

    pairs: int = 0
    pages: int = 0
    files: int = 0
    pictures: int = 0
    kinds: Counter[str] = field(default_factory=Counter)


def make(
    create: Create,
    *,
    pairs: int = 2000,
    seed: int = 1,
    pictures: bool = True,
    advance: Callable[[int], None] = lambda pairs: None,
) -> Summary:
    """Make a crawl of this many pairs; `advance` is told of the pairs as they are written.

    Without `pictures` the site's files are left out: only the crawl, the answers and the truth are written.
    """
    summary = Summary()
    with create("truth.jsonl") as truth, create("site.json") as answers:
        _fixed(create, answers)
        site = _Site(create, answers, pictures)
        for number, pages in enumerate(_shares(plan.pages(seed, pairs), pairs)):
            name = f"{CRAWL}-{number:05d}.warc"
            with create(f"warc/{name}.gz") as warc, create(f"wat/{name}.wat.gz") as wat:
                twin = Twin(warc, wat, seed, number)
                for page in pages:
                    twin.add(page)
                    for pair in page.pairs:
                        truth.write(_line(_truth(page, pair)))
                        site.add(pair)
                    _count(summary, page)
                    advance(len(page.pairs))
            summary.files += 1
        answers.write(b"\n}\n")
        summary.pictures = site.pictures
    return summary


def _shares(pages: Iterator[plan.Page], pairs: int) -> Iterator[Iterator[plan.Page]]:
    """Cut the pages into files of about 5,000 pairs, at least four files."""
    files = max(LEAST_FILES, -(-pairs // PAIRS_PER_FILE))
    for _, group in groupby(_numbered(pages), key=lambda item: item[0] * files // pairs):
        yield (page for _, page in group)


def _numbered(pages: Iterator[plan.Page]) -> Iterator[tuple[int, plan.Page]]:
    """Give each page the number of pairs before it."""
    before = 0
    for page in pages:
        yield before, page
        before += len(page.pairs)


def _count(summary: Summary, page: plan.Page) -> None:
    summary.pages += 1
    summary.pairs += len(page.pairs)
    summary.kinds.update(pair.kind.name for pair in page.pairs)


def _truth(page: plan.Page, pair: plan.Pair) -> dict[str, Any]:
    return {
        "url": pair.url,
        "alt": pair.alt,
        "page": page.url,
        "lang": page.language,
        "kind": pair.kind.name,
        "group": pair.group,
        "expect": pair.expect,
        "step": pair.step,
    }


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def _fixed(create: Create, answers: IO[bytes]) -> None:
    """Write what does not depend on the pairs; the answers that follow each begin with a comma."""
    with create("hosts.txt") as hosts:
        hosts.write(b"".join(f"{name}\n".encode() for name in plan.BLACKLIST))
    for name, data in plan.fixed_files():
        with create(f"site/{name}") as file:
            file.write(data)
    answers.write(b"{\n" + b",\n".join(_entry(url, answer) for url, answer in plan.fixed_answers()))


def _entry(url: str, answer: plan.Answer) -> bytes:
    return f"{json.dumps(url)}: {json.dumps(answer)}".encode()


class _Site:
    """Writes the server's answers and the pictures, each once."""

    def __init__(self, create: Create, answers: IO[bytes], draws: bool) -> None:
        self._create, self._answers, self._draws = create, answers, draws
        self._drawn: set[str] = set()

    @property
    def pictures(self) -> int:
        return len(self._drawn)

    def add(self, pair: plan.Pair) -> None:
        for url, answer in pair.answers:
            self._answers.write(b",\n" + _entry(url, answer))
        if pair.file is not None and self._draws and pair.file[0] not in self._drawn:
            name, how, scene = pair.file
            self._drawn.add(name)
            with self._create(f"site/{name}") as file:
                file.write(FILES[how][2](scene))
