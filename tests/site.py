"""The loopback web server for tests: toolkit/demo/server.py in a process of its own, so that it survives kills."""

from __future__ import annotations

import json
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.demo import show


@dataclass(frozen=True)
class Server:
    """A running server."""

    port: int
    pid: int

    @property
    def address(self) -> str:
        """As `fetch.resolve` wants it."""
        return f"127.0.0.1:{self.port}"

    def hits(self) -> dict[str, int]:
        """Return how often each URL was asked for so far."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{self.address}/__hits__", timeout=120) as answer:
            return dict(json.load(answer))


@contextmanager
def serve(site: Mapping[str, Mapping[str, Any]], root: Path, port: int = 0) -> Iterator[Server]:
    """Serve a site (the format of site.json) with files from `root`; it ends with the block or with this process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "site.json"
        path.write_text(json.dumps(dict(site)), encoding="utf-8")
        with show.server(path, root, port) as (bound, pid):
            yield Server(bound, pid)
