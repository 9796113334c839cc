"""A web server on loopback that answers as a site file says, for the demo and for tests.

    python -m toolkit.demo.server --site site.json --root DIR [--port N] [--until-eof]

The site file maps URLs to answers: `file` (under --root) or `text`, `status`, `type`, `headers`, `location`
("{port}" in it is this server's port), `location_file` (a redirect to that file, which is then served on the same
host). A URL is found by the Host header and the path; everything else, /robots.txt too, is 404. It prints
"listening on 127.0.0.1:PORT" once it answers. http://127.0.0.1:PORT/__hits__ tells how often each URL was asked for.
With --until-eof it ends when its standard input does, so that it never outlives whoever started it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mimetypes
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from aiohttp import web

HITS = "/__hits__"
FILES = "/__file__/"


class Site:
    """The answers, and how often each URL was asked for."""

    def __init__(self, answers: Mapping[str, Mapping[str, Any]], root: Path, port: int = 0) -> None:
        self._answers, self._root, self.port = answers, root, port
        self._linked = {a["location_file"] for a in answers.values() if "location_file" in a}
        self._hits: Counter[str] = Counter()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        url = f"http://{request.host}{request.raw_path}"
        if url == f"http://127.0.0.1:{self.port}{HITS}":
            return web.json_response(dict(sorted(self._hits.items())))
        self._hits[url] += 1
        if url in self._answers:
            return self._answer(self._answers[url])
        name = request.raw_path.removeprefix(FILES)
        if name in self._linked:
            return self._answer({"file": name, "type": mimetypes.guess_type(name)[0]})
        return web.Response(status=404, text="not here\n")

    def _answer(self, answer: Mapping[str, Any]) -> web.Response:
        headers = {**answer.get("headers", {})}
        if "location" in answer:
            headers["Location"] = answer["location"].replace("{port}", str(self.port))
        if "location_file" in answer:
            headers["Location"] = FILES + answer["location_file"]
        headers.setdefault("Content-Type", answer.get("type") or "text/plain")
        return web.Response(status=answer.get("status", 200), headers=headers, body=self._body(answer))

    def _body(self, answer: Mapping[str, Any]) -> bytes:
        if "file" not in answer:
            return str(answer.get("text", "")).encode()
        return (self._root / PurePosixPath(answer["file"]).name).read_bytes()


async def serve(site: Site, port: int, until_eof: bool) -> None:
    """Answer on 127.0.0.1 until cancelled, or until standard input ends."""
    server = web.Server(site.handle, access_log=None)
    runner = web.ServerRunner(server)
    await runner.setup()
    listener = web.TCPSite(runner, "127.0.0.1", port)
    await listener.start()
    site.port = runner.addresses[0][1]
    print(f"listening on 127.0.0.1:{site.port}", flush=True)
    try:
        await (asyncio.to_thread(sys.stdin.buffer.read) if until_eof else asyncio.Event().wait())
    finally:
        await runner.cleanup()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m toolkit.demo.server", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--site", type=Path, required=True, help="JSON: URL -> answer")
    parser.add_argument("--root", type=Path, required=True, help="folder of the files that answers name")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--until-eof", action="store_true", help="end when standard input ends")
    options = parser.parse_args()
    answers = json.loads(options.site.read_text(encoding="utf-8"))
    asyncio.run(serve(Site(answers, options.root), options.port, options.until_eof))


if __name__ == "__main__":
    main()
