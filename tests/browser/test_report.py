"""A real browser shows the report of a hostile crawl: nothing runs, nothing is asked for, and it can be seen."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.report.hostile import CHINESE, OWNED, addresses, attacks, make
from tests.site import serve
from toolkit.report.page import write
from toolkit.run.run import open_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1300,2000"),
)

pytestmark = [pytest.mark.prove, pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on this machine")]


def browse(folder: Path, page: Path, *options: str) -> bytes:
    """Load a page from disk and return what the browser prints; a dialog would keep it from ending."""
    command = [str(CHROMIUM), *QUIET, f"--user-data-dir={folder / 'profile'}", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, timeout=240, check=True, cwd=folder).stdout


def test_the_browser_runs_nothing_and_asks_for_nothing(tmp_path: Path) -> None:
    report = write(open_run(make(tmp_path / "crawl")))
    with serve({}, tmp_path) as server:
        beacon = f"http://{server.address}/beacon"
        # The run's own beacon names a port that is closed by now: point the same attacks at a server that listens.
        live = tmp_path / "live.html"
        live.write_text(_aimed(report.read_text(encoding="utf-8"), beacon), encoding="utf-8")
        shown = browse(tmp_path, live, "--dump-dom").decode()
        assert "<title>run - danqing report</title>" in shown
        assert server.hits() == {}

        # The same attacks without our escaping do reach the server and the title, so the lines above could fail.
        naked, stays = tmp_path / "naked.html", [a for a in attacks(beacon) if "refresh" not in a]
        naked.write_text(f"<meta charset=utf-8><title>x</title>{''.join(stays)}", encoding="utf-8")
        assert f"<title>{OWNED}</title>" in browse(tmp_path, naked, "--dump-dom").decode()
        assert server.hits()
    assert CHINESE in shown
    assert all(text.partition("<")[0] in shown for text in addresses()[:1])


def _aimed(html: str, beacon: str) -> str:
    start = html.index("http://127.0.0.1:")
    return html.replace(html[start : html.index("/beacon", start) + len("/beacon")], beacon)


def test_the_page_can_be_seen(tmp_path: Path) -> None:
    report = write(open_run(make(tmp_path / "crawl")))
    browse(tmp_path, report, f"--screenshot={tmp_path / 'page.png'}")
    with Image.open(io.BytesIO((tmp_path / "page.png").read_bytes())) as image:
        pixels = np.asarray(image.convert("L"))
    assert pixels.shape == (2000, 1300)
    assert 0.02 < (pixels < 200).mean() < 0.5
