"""Speed of reading WAT files against warcio + json on the same file, in one run.

    python tools/bench/source.py [FILE.wat.gz] [--pages 3000]

Without a file one is made: three envelopes a page as Common Crawl writes them, with 20-160 links, of which the images
have Chinese captions. Both readers take every record, resolve every image address and give the same pairs; ours
also names the languages, computes ids and decides the steps. Prints rows for docs/benchmarks.md (medians).
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urljoin

from warcio.archiveiterator import ArchiveIterator

from toolkit.config.source import Source
from toolkit.source import stage, warc
from toolkit.source.page import Page, pairs

ROUNDS = 3
WORDS = [
    "一张",
    "高清",
    "照片",
    "展示",
    "了",
    "城市",
    "夜景",
    "与",
    "山水",
    "风光",
    "的",
    "美丽",
    "图片",
    "猫咪",
    "在",
    "草地",
    "上",
    "奔跑",
    "产品",
    "细节",
    "实拍",
]


class Task:
    """A task that keeps nothing but counts."""

    def __init__(self, path: Path) -> None:
        self._path, self.tallies, self.rows = path, Counter[str](), 0
        self.config = SimpleNamespace(input=SimpleNamespace(kind="wat"), source=Source())

    def files(self) -> list[tuple[int, str]]:
        """Return the one file."""
        return [(0, str(self._path))]

    def write(self, tables: Any) -> None:
        """Count the rows."""
        self.rows = sum(table.num_rows for table in tables)

    def tally(self, key: str, rows: int) -> None:
        """Keep a number."""
        self.tallies[key] += rows

    def damage(self, where: str, what: str) -> None:
        """End: a damaged file gives no figures."""
        raise SystemExit(f"damaged: {where}: {what}")

    def advance(self, rows: int) -> None:
        """Show nothing."""


def _caption(chance: random.Random) -> str:
    return "".join(chance.choices(WORDS, k=chance.randint(3, 9)))


def envelopes(page: int, chance: random.Random) -> list[dict[str, Any]]:
    """The three envelopes of one page: request, response, metadata."""
    header = {"WARC-Target-URI": f"http://www{page % 97}.example.test/{page}.html", "WARC-Record-ID": f"<urn:{page}>"}
    links = []
    for number in range(chance.randint(20, 160)):
        links.append({"path": "A@/href", "url": f"/a/{chance.getrandbits(60):x}", "text": _caption(chance)})
        if number % 8 == 0:
            alt = _caption(chance)
            links.append({"path": "IMG@/src", "url": f"/img/{chance.getrandbits(60):x}.jpg", "alt": alt})
    language = json.dumps({"reliable": True, "languages": [{"code": "zh", "code-iso-639-3": "zho"}]})
    payloads = [
        {"HTTP-Request-Metadata": {"Headers": {"User-Agent": "x" * 200}}},
        {
            "HTTP-Response-Metadata": {
                "Response-Message": {"Status": "200"},
                "Headers": {"X": f"{chance.getrandbits(4000):x}"},
                "HTML-Metadata": {"Head": {"Title": "t"}, "Links": links},
            }
        },
        {"WARC-Metadata-Metadata": {"Metadata-Records": [{"Name": "languages-cld2", "Value": language}]}},
    ]
    return [{"Envelope": {"Payload-Metadata": payload, "WARC-Header-Metadata": header}} for payload in payloads]


def make(path: Path, pages: int) -> None:
    """Write a WAT file of so many pages."""
    chance = random.Random(0)  # noqa: S311 (a fixed file, no secret)
    with path.open("wb") as file:
        for page in range(pages):
            for envelope in envelopes(page, chance):
                body = json.dumps(envelope, ensure_ascii=False, separators=(",", ":")).encode()
                head = (
                    f"WARC/1.0\r\nWARC-Type: metadata\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
                )
                file.write(gzip.compress(head.encode() + b"\r\n\r\n" + body + b"\r\n\r\n", 6))


def plain(path: Path) -> tuple[int, int]:
    """Records and pairs, read with warcio and json."""
    records = found = 0
    with path.open("rb") as file:
        for record in ArchiveIterator(file):
            records += 1
            if record.rec_headers.get_header("Content-Type") == "application/json":
                found += len(_plain_pairs(json.loads(record.content_stream().read())["Envelope"]))
    return records, found


def _plain_pairs(envelope: dict[str, Any]) -> list[tuple[str, str]]:
    html = envelope["Payload-Metadata"].get("HTTP-Response-Metadata", {}).get("HTML-Metadata", {})
    base = urljoin(envelope["WARC-Header-Metadata"].get("WARC-Target-URI", ""), html.get("Head", {}).get("Base", ""))
    images = [link for link in html.get("Links", ()) if link["path"] == "IMG@/src" and link.get("alt", "").strip()]
    return [(urljoin(base, i["url"]), i["alt"]) for i in images if not i["url"].startswith("data:")]


def ours(path: Path) -> tuple[int, int]:
    """Records and pairs, read with our reader as far as the plain one goes."""
    records = found = 0
    with path.open("rb", buffering=1 << 20) as file:
        for record in warc.records(file, lambda *_: None):
            records += 1
            event = stage._event(record)
            found += len(pairs(event)[0]) if isinstance(event, Page) else 0
    return records, found


def whole(path: Path) -> tuple[int, int]:
    """Records and pairs of the whole stage: languages, ids, tables and verdicts too."""
    task = Task(path)
    stage.run(task)  # type: ignore[arg-type]
    return task.tallies["records"], task.rows


def measure(work: Callable[[Path], tuple[int, int]], path: Path) -> tuple[float, int, int]:
    """Return the median time in seconds, records and pairs."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        records, found = work(path)
        times.append(time.perf_counter() - start)
    return statistics.median(times), records, found


def report(path: Path) -> None:
    """Print the table."""
    print("| reader | records/s | pairs/s | MB/s of the file | times warcio + json |")
    print("| --- | ---: | ---: | ---: | ---: |")
    size, base = path.stat().st_size / 1e6, 0.0
    for name, work in (("warcio + json", plain), ("our reader", ours), ("the whole stage source", whole)):
        seconds, records, found = measure(work, path)
        base = base or seconds
        cells = f"{records / seconds:,.0f} | {found / seconds:,.0f} | {size / seconds:.1f} | {base / seconds:.1f}"
        print(f"| {name} | {cells} |", flush=True)


def main() -> None:
    """Measure the given file, or one made for the purpose."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--pages", type=int, default=3000)
    options = parser.parse_args()
    if options.file:
        report(options.file)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.warc.wat.gz"
        make(path, options.pages)
        report(path)


if __name__ == "__main__":
    main()
