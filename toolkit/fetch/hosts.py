"""Stage hosts: each host of a run is resolved, and its robots.txt read, once and not once in every shard.

A host that answers 4xx for robots.txt has no rules; one that answers 5xx, or nothing, allows nothing (RFC 9309 2.3.1).
Hosts are worked off in sorted order in parts of 5,000, which survive a kill; memory holds one part and the names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import pyarrow as pa

from toolkit.data import table
from toolkit.data.pair import schema
from toolkit.data.stage import Stopped, Task
from toolkit.fetch import client as network
from toolkit.fetch.addresses import DropError, Target, parse
from toolkit.fetch.client import Client, Host

PART = 5_000  # hosts


def run(task: Task) -> None:
    """Write one row for each origin of the pairs alive. Raises Stopped, WorkError."""
    task.write(_tables(task, origins(task)))


def origins(task: Task) -> list[Target]:
    """Return the first URL's target of each origin, sorted by origin."""
    found: dict[str, Target] = {}
    for shard in task.shards():
        urls: list[Any] = task.rows("url", shard=shard)["url"].to_pylist()
        for url in urls:
            try:
                target = parse(url)
            except DropError:
                continue
            found.setdefault(target.origin, target)
    return [found[origin] for origin in sorted(found)]


def _tables(task: Task, targets: Sequence[Target]) -> Iterator[pa.Table]:
    checkpoint = task.checkpoint()
    finished = set(checkpoint.parts())
    for part, start in enumerate(range(0, len(targets), PART)):
        if part not in finished:
            if task.stopping():
                raise Stopped("hosts was asked to stop; finished parts are kept")
            checkpoint.save(part, _writer(task, targets[start : start + PART]))
        with checkpoint.load(part, ".parquet") as file:
            yield table.read(file)


def _writer(task: Task, targets: Sequence[Target]) -> Callable[[Callable[[str], IO[bytes]]], None]:
    def write(create: Callable[[str], IO[bytes]]) -> None:
        network.open_files()
        with network.runner() as runner:
            hosts = runner.run(ask(Client(task.config.fetch, task.config.hosts.robots), targets, task.advance))
        table.write(create(".parquet"), schema("hosts"), [_table(targets, hosts)])

    return write


async def ask(client: Client, targets: Sequence[Target], advance: Callable[[int], None]) -> list[Host]:
    """Look every host up and read its robots.txt; the client is used up. Raises WorkError."""

    async def one(target: Target) -> Host:
        host = await client.host(target)
        advance(1)
        return host

    async with client:
        await client.probe()
        tasks = [asyncio.create_task(one(target)) for target in targets]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()


def _table(targets: Sequence[Target], hosts: Sequence[Host]) -> pa.Table:
    return table.build(
        schema("hosts"),
        {
            "host": [target.origin for target in targets],
            "addresses": [list(host.addresses) for host in hosts],
            "robots": [host.robots for host in hosts],
            "fault": [host.fault for host in hosts],
        },
    )
