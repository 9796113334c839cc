"""Stage fetch: one shard's images, from the network into one tar.

The verdict comes from the network and is recorded once: `dropped` is "fetch." and the reason. Downloads run in a
rolling window over the rows and finish in any order; each goes at once to the end of the current part's pile, so
that memory holds only what is under way. Finished parts survive a kill. At the end the images are copied from the
piles into the tar in input order: for the same answers the bytes are the same, however the parts were cut.

A URL that stands in several rows of the shard is asked for once.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import IO, Any, Final

import pyarrow as pa

from toolkit.data import table
from toolkit.data.pair import ID_BYTES, schema
from toolkit.data.stage import Checkpoint, Stopped, Task
from toolkit.data.tar import DigestError, TarWriter, checked
from toolkit.errors import WorkError
from toolkit.fetch import client as network
from toolkit.fetch.addresses import DropError, parse
from toolkit.fetch.client import Answer, Client, Host

WINDOW = 16  # images started, for each one that may be under way: so that one host's queue does not idle the others
POLL_S = 0.25  # how often a quiet moment asks whether to stop
SAFE_ROWS = 1_000  # rows between two looks at the stop sign while the tar is put together

# Names only, in recipe order: the network's answer is measurement and verdict in one.
STEPS: Final = tuple(f"fetch.{reason}" for reason in network.REASONS)

_FIELDS: list[tuple[str, pa.DataType]] = [
    ("row", pa.int64()),
    ("dropped", pa.string()),
    ("status", pa.int16()),
    ("mime", pa.string()),
    ("final_url", pa.string()),
    ("redirects", pa.int16()),
    ("kind", pa.string()),
    ("start", pa.int64()),
    ("bytes", pa.int64()),
    ("digest", pa.string()),
]
_PART = pa.schema(_FIELDS)


@dataclass(frozen=True, slots=True)
class Record:
    """What a part holds of one row: the answer, and where its body lies in the part's pile."""

    row: int
    dropped: str | None
    status: int | None
    mime: str | None
    final_url: str | None
    redirects: int
    kind: str | None
    start: int | None
    bytes: int | None
    digest: str | None


def run(task: Task) -> None:
    """Download the images of one shard. Raises Stopped, WorkError."""
    rows = task.rows("id", "url", "caption")
    checkpoint = task.checkpoint()
    urls: list[str] = _list(rows, "url")
    first = {url: row for row, url in reversed(list(enumerate(urls)))}
    wanted = sorted(first.values())
    # Another attempt at the same unit may have saved a part before us, with other rows: what counts is what is there.
    while missing := _missing(wanted, checkpoint):
        _download(task, checkpoint, {row: urls[row] for row in missing})
    _assemble(task, checkpoint, rows, [first[url] for url in urls])


def _missing(wanted: Sequence[int], checkpoint: Checkpoint) -> list[int]:
    found: set[int] = set()
    for part in checkpoint.parts():
        found.update(_list(_read(checkpoint, part, ["row"]), "row"))
    return [row for row in wanted if row not in found]


def _list(rows: pa.Table, name: str) -> list[Any]:
    values: list[Any] = rows[name].to_pylist()
    return values


def _read(checkpoint: Checkpoint, part: int, columns: Sequence[str] | None = None) -> pa.Table:
    with checkpoint.load(part, ".parquet") as file:
        return table.read(file, columns)


def _download(task: Task, checkpoint: Checkpoint, urls: Mapping[int, str]) -> None:
    """Fetch these rows into further parts; raises Stopped once what had come is kept."""
    if task.stopping():
        raise Stopped("fetch was asked to stop before it began")
    network.open_files()
    config = task.config
    with network.runner() as runner:
        known = known_hosts(task, urls.values())
        client = Client(config.fetch, config.hosts.robots, known)
        flow = Flow(client, urls, config.fetch.concurrency * WINDOW)
        runner.run(flow.open())
        try:
            runner.run(client.probe())
            part = -1
            while flow.busy() and not flow.halted:
                # Not by the listing alone: another node's parts may be missing in it for a while.
                part = max(part, *checkpoint.parts(), -1) + 1
                checkpoint.save(part, lambda create: _fill(create, flow, runner, task))
            if flow.busy():
                raise Stopped("fetch was asked to stop; finished parts are kept")
        finally:
            runner.run(flow.close())


def _fill(create: Callable[[str], IO[bytes]], flow: Flow, runner: asyncio.Runner, task: Task) -> None:
    """Write one part: its pile of bodies in the order in which they come, and its records."""
    pile = create(".bin")
    records: list[Record] = []
    offset = 0

    def keep(row: int, answer: Answer) -> None:
        nonlocal offset
        records.append(_record(row, answer, offset))
        pile.write(answer.body)
        offset += len(answer.body)
        task.advance(1)

    runner.run(flow.take(task.config.fetch.checkpoint, keep, task.stopping))
    table.write(create(".parquet"), _PART, [pa.Table.from_pylist([asdict(r) for r in records], schema=_PART)])


def _record(row: int, answer: Answer, offset: int) -> Record:
    kept = answer.kind is not None
    return Record(
        row=row,
        dropped=f"fetch.{answer.dropped}" if answer.dropped else None,
        status=answer.status,
        mime=answer.mime,
        final_url=answer.final_url,
        redirects=answer.redirects,
        kind=answer.kind,
        start=offset if kept else None,
        bytes=len(answer.body) if kept else None,
        digest=hashlib.blake2b(answer.body, digest_size=ID_BYTES).hexdigest() if kept else None,
    )


def known_hosts(task: Task, urls: Any) -> dict[str, Host]:
    """Return what the stage hosts found of the origins of these URLs."""
    wanted = {origin for url in urls if (origin := _origin(url)) is not None}
    found = task.find("hosts", "host", sorted(wanted))
    return {row["host"]: Host(tuple(row["addresses"] or ()), row["robots"], row["fault"]) for row in found.to_pylist()}


def _origin(url: str) -> str | None:
    try:
        return parse(url).origin
    except DropError:
        return None


class Flow:
    """Downloads under way: a window that rolls over the rows in input order and gives answers as they come.

    Between two calls of `take` the event loop stands still; what is under way goes on with the next one.
    """

    def __init__(self, client: Client, urls: Mapping[int, str], window: int) -> None:
        self._client, self._window = client, window
        self._left: Iterator[tuple[int, str]] = iter(urls.items())
        self._waiting = len(urls)
        self.halted = False
        self._tasks: set[asyncio.Task[tuple[int, Answer]]] = set()
        self._done: asyncio.Queue[asyncio.Task[tuple[int, Answer]]] = asyncio.Queue()

    async def open(self) -> None:
        """Open the client."""
        await self._client.__aenter__()

    def busy(self) -> bool:
        """Return whether any row is left."""
        return self._waiting > 0

    async def take(self, rows: int, keep: Callable[[int, Answer], None], stopping: Callable[[], bool]) -> None:
        """Hand over the next answers, at most `rows`; once `stopping` says so give up the rest and be halted."""
        taken = 0
        while taken < rows and self._waiting and not stopping():
            self._start()
            if (task := await self._next()) is not None:
                taken += self._hand(task, keep)
        if self._waiting and stopping():
            await self._halt()
            while not self._done.empty():
                self._hand(self._done.get_nowait(), keep)

    async def _next(self) -> asyncio.Task[tuple[int, Answer]] | None:
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                return await self._done.get()
        return None  # a quiet moment

    def _hand(self, task: asyncio.Task[tuple[int, Answer]], keep: Callable[[int, Answer], None]) -> bool:
        self._tasks.discard(task)
        if task.cancelled():
            return False
        self._waiting -= 1
        keep(*task.result())
        return True

    async def _halt(self) -> None:
        self.halted = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self) -> None:
        while len(self._tasks) < self._window and (row := next(self._left, None)) is not None:
            task = asyncio.create_task(self._one(*row))
            task.add_done_callback(self._done.put_nowait)
            self._tasks.add(task)

    async def _one(self, row: int, url: str) -> tuple[int, Answer]:
        return row, await self._client.image(url)

    async def close(self) -> None:
        """Give up what is under way, and the client."""
        await self._halt()
        await self._client.__aexit__()


def _assemble(task: Task, checkpoint: Checkpoint, rows: pa.Table, first: Sequence[int]) -> None:
    """Copy all parts into the one tar and the one table, in input order; `first` names the row that was fetched."""
    records, places = _records(checkpoint)
    piles = {part: checkpoint.load(part, ".bin") for part in sorted(set(places.values()))}
    tar = TarWriter(task.create(".tar"))
    offsets: list[int | None] = []
    for row, pair in enumerate(rows.to_pylist()):
        record = records[first[row]]
        if row % SAFE_ROWS == 0 and task.stopping():
            raise Stopped("fetch was asked to stop; its parts are finished and kept")
        offsets.append(_add(tar, pair, record, piles[places[record.row]]))
    tar.close()
    for pile in piles.values():
        pile.close()
    task.write(_table(rows["id"], [records[row] for row in first], offsets))


def _records(checkpoint: Checkpoint) -> tuple[dict[int, Record], dict[int, int]]:
    """Return the records of all parts and the part of each, by row; of two answers the lower part's counts."""
    records: dict[int, Record] = {}
    places: dict[int, int] = {}
    for part in checkpoint.parts():
        for fields in _read(checkpoint, part).to_pylist():
            if fields["row"] not in records:
                records[fields["row"]] = Record(**fields)
                places[fields["row"]] = part
    return records, places


def _add(tar: TarWriter, pair: Mapping[str, str], record: Record, pile: IO[bytes]) -> int | None:
    """Append one pair's three members; return where the image's bytes begin, or None where there is no image."""
    if record.kind is None or record.start is None or record.bytes is None:
        return None
    try:
        body = checked(pile, record.start, record.bytes, record.digest)
    except (EOFError, DigestError) as error:
        raise WorkError(
            f"a checkpoint of fetch holds other bytes for {pair['url']} than were saved: {error}"
        ) from error
    offset = tar.add(f"{pair['id']}.{record.kind}", body)
    tar.add(f"{pair['id']}.txt", pair["caption"].encode())
    facts = {**pair, "digest": record.digest, "mime": record.mime}
    tar.add(f"{pair['id']}.json", json.dumps(facts, sort_keys=True, ensure_ascii=False).encode())
    return offset


def _table(ids: Any, records: Sequence[Record], offsets: Sequence[int | None]) -> pa.Table:
    return table.build(
        schema("fetch"),
        {
            "id": ids,
            "status": [r.status for r in records],
            "mime": [r.mime for r in records],
            "final_url": [r.final_url for r in records],
            "redirects": [r.redirects for r in records],
            "offset": offsets,
            "bytes": [r.bytes for r in records],
            "digest": [r.digest for r in records],
            "dropped": [r.dropped for r in records],
        },
    )
