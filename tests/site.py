"""The loopback web server for tests: toolkit/demo/server.py in a process of its own, so that it survives kills."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]


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
        with opener.open(f"http://{self.address}/__hits__", timeout=10) as answer:
            return dict(json.load(answer))


@contextmanager
def serve(site: Mapping[str, Mapping[str, Any]], root: Path, port: int = 0) -> Iterator[Server]:
    """Serve a site (the format of site.json) with files from `root`; it ends with the block or with this process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "site.json"
        path.write_text(json.dumps(dict(site)), encoding="utf-8")
        command = [sys.executable, "-m", "toolkit.demo.server", "--site", path, "--root", root]
        process = subprocess.Popen(
            [*map(str, command), "--port", str(port), "--until-eof"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
        )
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line.startswith("listening on "):
                raise RuntimeError(f"the test server did not start: {line!r}, exit {process.wait(10)}")
            yield Server(int(line.rpartition(":")[2]), process.pid)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()
