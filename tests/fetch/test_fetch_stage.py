"""The stages fetch and hosts through a task on plain files, against a server in a process of its own."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.site import Server, serve
from toolkit.config import Config
from toolkit.config.config import check
from toolkit.config.fetch import Fetch
from toolkit.data.pair import pair_id, schema
from toolkit.data.stage import Stopped
from toolkit.data.tar import member
from toolkit.errors import WorkError
from toolkit.fetch import hosts, stage
from toolkit.fetch.addresses import parse
from toolkit.fetch.client import Client, runner
from toolkit.run.plain import run_stage

CRAWL = Path(__file__).parents[2] / "../shared/data/crawl"
JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 40
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


def config(server: Server, **fetch: Any) -> Config:
    tree = {"input": {"kind": "table", "paths": ["-"]}, "hosts": {"robots": True}}
    return check(tree | {"fetch": {"resolve": {"*.test": server.address}, "retries": 0, **fetch}}, "test")


def pairs(folder: Path, urls: list[str]) -> Path:
    texts = [f"图 {n}" for n in range(len(urls))]
    ids = [pair_id(url, text) for url, text in zip(urls, texts, strict=True)]
    pq.write_table(pa.table({"id": ids, "url": urls, "caption": texts}), folder / "pairs.parquet")
    return folder / "pairs.parquet"


class Parts:
    """A checkpoint in memory: a part is there wholly or not at all."""

    def __init__(self) -> None:
        self.saved: dict[int, dict[str, bytes]] = {}

    def parts(self) -> Iterator[int]:
        yield from sorted(self.saved)

    def load(self, part: int, suffix: str) -> io.BytesIO:
        return io.BytesIO(self.saved[part][suffix])

    def save(self, part: int, write: Callable[[Callable[[str], IO[bytes]]], None]) -> None:
        if part not in self.saved:
            opened: dict[str, io.BytesIO] = {}
            write(lambda suffix: opened.setdefault(suffix, io.BytesIO()))
            self.saved[part] = {suffix: file.getvalue() for suffix, file in opened.items()}


class Desk:
    """The Task protocol in memory, as far as these stages use it; asks to stop after some rows."""

    unit = 0

    def __init__(self, urls: list[str], config: Config, parts: Parts, after: int = 10**9) -> None:
        texts = [f"图 {n}" for n in range(len(urls))]
        ids = [pair_id(url, text) for url, text in zip(urls, texts, strict=True)]
        self._rows = pa.table({"id": ids, "url": urls, "caption": texts})
        self.config, self._parts, self._left = config, parts, after
        self.hosts: pa.Table = schema("hosts").empty_table()
        self.tar = io.BytesIO()
        self.written: pa.Table | None = None

    def shards(self) -> list[int]:
        return [0]

    def rows(self, *names: str, shard: int | None = None) -> pa.Table:
        return self._rows.select(list(names))

    def find(self, stage: str, column: str, values: list[str]) -> pa.Table:
        assert (stage, column) == ("hosts", "host")
        return self.hosts.filter(pc.is_in(self.hosts["host"], value_set=pa.array(values, pa.string())))

    def create(self, suffix: str) -> io.BytesIO:
        assert suffix == ".tar"
        return self.tar

    def write(self, tables: pa.Table | Iterable[pa.Table], shard: int | None = None) -> None:
        self.written = tables if isinstance(tables, pa.Table) else pa.concat_tables(tables)

    def advance(self, rows: int) -> None:
        self._left -= rows

    def stopping(self) -> bool:
        return self._left <= 0

    def checkpoint(self) -> Parts:
        return self._parts


def small_site(folder: Path) -> dict[str, dict[str, Any]]:
    (folder / "a.jpg").write_bytes(JPEG)
    (folder / "b.png").write_bytes(PNG)
    site: dict[str, dict[str, Any]] = {
        f"http://h{n % 5}.test/{n}.jpg": {"file": "a.jpg" if n % 3 else "b.png", "type": "image/jpeg"}
        for n in range(40)
    }
    site["http://h0.test/moved.jpg"] = {"status": 302, "location_file": "a.jpg"}
    site["http://h1.test/robots.txt"] = {"text": "User-agent: *\nDisallow: /6"}
    site["http://h2.test/robots.txt"] = {"status": 503}
    return site


URLS = [f"http://h{n % 5}.test/{n}.jpg" for n in range(40)]
MORE = [
    "http://h0.test/moved.jpg",
    "http://h3.test/gone.jpg",
    "file:///etc/passwd",
    "http://10.0.0.1/",
    URLS[4],
    URLS[4],
]


def test_tar_and_table_in_input_order_with_original_bytes(tmp_path: Path) -> None:
    with serve(small_site(tmp_path), tmp_path) as server:
        task = run_stage("fetch", [pairs(tmp_path, URLS + MORE)], tmp_path / "out.parquet", config(server))
        hits = server.hits()
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.names == schema("fetch").names
    assert table.num_rows == len(URLS + MORE)
    assert hits[URLS[4]] == 1 and hits["http://h0.test/robots.txt"] == 1
    expected = [None if n % 5 != 2 and n != 6 else "fetch.robots" for n in range(40)]
    assert table["dropped"].to_pylist() == [
        *expected,
        *(None, "fetch.http_4xx", "fetch.bad_url", "fetch.blocked_address", None, None),
    ]
    assert task.books.drops["fetch.robots"] == 9
    data = (tmp_path / "out.tar").read_bytes()
    for row in table.to_pylist():
        if row["dropped"] is None:
            body = member(io.BytesIO(data), row["offset"], row["bytes"])
            assert body in (JPEG, PNG)
            assert hashlib.blake2b(body, digest_size=16).hexdigest() == row["digest"]
    kept = [row["id"] for row in table.to_pylist() if row["dropped"] is None]
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        names = tar.getnames()
        facts = json.loads(tar.extractfile(f"{kept[0]}.json").read())  # type: ignore[union-attr]
        assert tar.extractfile(f"{kept[0]}.txt").read().decode() == "图 0"  # type: ignore[union-attr]
    assert [name.partition(".")[0] for name in names[::3]] == kept
    assert [name.partition(".")[2] for name in names[:6]] == ["png", "txt", "json", "jpg", "txt", "json"]
    assert list(facts) == sorted(facts) == ["caption", "digest", "id", "mime", "url"]
    assert facts["url"] == URLS[0]


def test_stop_and_resume_fetches_the_rest_and_gives_the_same_bytes(tmp_path: Path) -> None:
    with serve(small_site(tmp_path), tmp_path) as server:
        whole = Desk(URLS + MORE, config(server), Parts())
        stage.run(whole)
        before = Counter(server.hits())
        settings = config(server, checkpoint=7, concurrency=2, per_host=1)
        parts = Parts()
        for after in (1, 12, 20):
            with pytest.raises(Stopped):
                stage.run(Desk(URLS + MORE, settings, parts, after))
        last = Desk(URLS + MORE, settings, parts)
        stage.run(last)
        hits = Counter(server.hits()) - before
    assert len(parts.saved) > 4
    assert (last.tar.getvalue(), last.written) == (whole.tar.getvalue(), whole.written)
    images = [hits[url] for url in URLS if "h2" not in url and "/6." not in url]
    # Kept images are not asked for again; what was under way at each stop (2 at once) may be.
    assert min(images) == 1 and sum(images) <= len(images) + 3 * 2


def test_part_saved_by_another_attempt_counts(tmp_path: Path) -> None:
    class Raced(Parts):
        """Another attempt saves part 1 just before us, with the rows that it happened to have."""

        def save(self, part: int, write: Callable[[Callable[[str], IO[bytes]]], None]) -> None:
            super().save(part, write)
            if part == 1 and not self.raced:
                self.raced, self.saved[1] = True, self.saved[0]

        raced = False

    with serve(small_site(tmp_path), tmp_path) as server:
        whole = Desk(URLS, config(server), Parts())
        stage.run(whole)
        raced = Desk(URLS, config(server, checkpoint=10), Raced())
        stage.run(raced)
    assert (raced.tar.getvalue(), raced.written) == (whole.tar.getvalue(), whole.written)


def test_hosts_are_asked_once_and_fetch_uses_what_they_said(tmp_path: Path) -> None:
    with serve(small_site(tmp_path), tmp_path) as server:
        asking = Desk(URLS + MORE, config(server), Parts())
        hosts.run(asking)
        assert asking.written is not None
        assert asking.written.schema == schema("hosts")
        facts = {row["host"]: (row["addresses"], row["robots"], row["fault"]) for row in asking.written.to_pylist()}
        assert list(facts) == sorted(facts) == ["http://10.0.0.1", *(f"http://h{n}.test" for n in range(5))]
        assert facts["http://h1.test"] == ([], "User-agent: *\nDisallow: /6\n", None)
        assert facts["http://h2.test"] == ([], None, "robots")
        assert facts["http://h0.test"] == ([], None, None)
        assert facts["http://10.0.0.1"] == ([], None, "blocked_address")
        robots = {url: n for url, n in server.hits().items() if "robots" in url}
        alone, fetching = Desk(URLS + MORE, config(server), Parts()), Desk(URLS + MORE, config(server), Parts())
        fetching.hosts = asking.written
        stage.run(fetching)
        assert {url: n for url, n in server.hits().items() if "robots" in url} == robots
        stage.run(alone)
    assert (fetching.tar.getvalue(), fetching.written) == (alone.tar.getvalue(), alone.written)


def test_hostile_redirects_cost_their_own_rows(tmp_path: Path) -> None:
    site = small_site(tmp_path)
    site["http://h0.test/bad.jpg"] = {"status": 302, "location": "http://[bad"}
    site["http://h9.test/robots.txt"] = {"status": 302, "location": "http://a\u2100b/"}
    site["http://h9.test/x.jpg"] = {"file": "a.jpg"}
    with serve(site, tmp_path) as server:
        urls = [URLS[0], "http://h0.test/bad.jpg", "http://h9.test/x.jpg", URLS[3]]
        asking, fetching = Desk(urls, config(server), Parts()), Desk(urls, config(server), Parts())
        hosts.run(asking)
        stage.run(fetching)
    assert asking.written is not None and fetching.written is not None
    assert asking.written["fault"].to_pylist() == [None, None, "robots"]
    assert fetching.written["dropped"].to_pylist() == [None, "fetch.bad_url", "fetch.robots", None]


def test_http_and_https_of_a_host_are_two_origins(tmp_path: Path) -> None:
    urls = ["https://h0.test/0.jpg", URLS[0]]
    with serve(small_site(tmp_path), tmp_path) as server:
        asking, fetching = Desk(urls, config(server), Parts()), Desk(urls, config(server), Parts())
        hosts.run(asking)
        assert asking.written is not None
        fetching.hosts = asking.written
        stage.run(fetching)
    assert fetching.written is not None
    assert asking.written["host"].to_pylist() == ["http://h0.test", "https://h0.test"]
    fault = asking.written["fault"][1].as_py()  # no TLS there
    assert asking.written["fault"].to_pylist() == [None, fault] and fault in ("tls", "connect")
    assert fetching.written["dropped"].to_pylist() == [f"fetch.{fault}", None]


def test_hosts_stop_keeps_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "PART", 2)
    with serve(small_site(tmp_path), tmp_path) as server:
        parts = Parts()
        with pytest.raises(Stopped):
            hosts.run(Desk(URLS + MORE, config(server), parts, after=2))
        again = Desk(URLS + MORE, config(server), parts)
        hosts.run(again)
        assert again.written is not None and again.written.num_rows == 6
        assert {n for url, n in server.hits().items() if url != "http://h2.test/robots.txt"} == {1}


def test_missing_server_is_no_verdict(closed: int) -> None:
    settings = config(Server(closed, pid=0))
    with pytest.raises(WorkError, match="nothing answers"):
        stage.run(Desk(URLS, settings, Parts()))
    with pytest.raises(WorkError, match="nothing answers"):
        hosts.run(Desk(URLS, settings, Parts()))


def test_hosts_of_a_machine_without_network_are_no_verdict() -> None:
    async def lookup(host: str) -> list[str]:
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    client = Client(Fetch(contact="me@example.org"), lookup=lookup)
    targets = [parse(f"http://h{n}.example.org/") for n in range(200)]
    with pytest.raises(WorkError, match="reaches no network"), runner() as loop:
        loop.run(hosts.ask(client, targets, lambda rows: None))


def test_nothing_to_fetch_needs_no_server(tmp_path: Path) -> None:
    with serve({}, tmp_path) as server:
        settings = config(server)
    empty = Desk([], settings, Parts())
    stage.run(empty)
    assert empty.written is not None and empty.written.schema == schema("fetch") and empty.written.num_rows == 0
    with tarfile.open(fileobj=io.BytesIO(empty.tar.getvalue())) as tar:
        assert tar.getnames() == []


@pytest.mark.skipif(not CRAWL.exists(), reason="../shared/data/crawl is missing")
def test_real_crawl(tmp_path: Path) -> None:
    site = json.loads((CRAWL / "site.json").read_text())
    truth = [json.loads(line) for line in (CRAWL / "truth.jsonl").read_text().splitlines()]
    images = [row for row in truth if row["kind"] in ("clean", "web_pair")][:30]
    planted = [row for row in truth if "drop:fetch" in row["expect"]]
    with serve(site, CRAWL / "site") as server:
        settings = config(server, resolve={"*.example.test": server.address})
        run_stage("fetch", [pairs(tmp_path, [r["url"] for r in images + planted])], tmp_path / "o.parquet", settings)
        hits = server.hits()
    dropped = pq.read_table(tmp_path / "o.parquet")["dropped"].to_pylist()
    assert dropped[: len(images)] == [None] * len(images)
    reasons = {
        "optout": "fetch.opt_out",
        "http404": "fetch.http_4xx",
        "metadata_redirect": "fetch.blocked_address",
        "loopback_redirect": "fetch.blocked_address",
        "loopback": "fetch.blocked_address",
        "html_body": "fetch.not_image",
        "truncated": None,  # the image stage finds these two
        "bomb": None,
    }
    assert dropped[len(images) :] == [reasons[row["kind"]] for row in planted]
    assert not any(url.startswith(("http://127.", "http://169.")) for url in hits)
