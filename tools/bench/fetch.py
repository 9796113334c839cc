"""Measure the stage fetch: images per second of one process against a loopback server in another.

    python tools/bench/fetch.py [--images 4000] [--kb 60] [--hosts 200]

Prints a row for docs/benchmarks.md. The server takes a core of its own; parts are written to a temporary folder. No
real network is in it: the figure says what the client costs, which is the ceiling of one process.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.site import serve  # noqa: E402
from toolkit.config.config import check  # noqa: E402
from toolkit.data.pair import pair_id  # noqa: E402
from toolkit.run.plain import run_stage  # noqa: E402


def main() -> None:
    """Read the command line, measure once, print a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--kb", type=int, default=60, help="10^3 bytes an image")
    parser.add_argument("--hosts", type=int, default=200)
    options = parser.parse_args()
    urls = [f"http://h{n % options.hosts}.test/{n}.jpg" for n in range(options.images)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(options.kb * 1000 - 4))
        ids = [pair_id(url, "") for url in urls]
        pq.write_table(pa.table({"id": ids, "url": urls, "caption": urls}), folder / "pairs.parquet")
        with serve({url: {"file": "a.jpg", "type": "image/jpeg"} for url in urls}, folder) as server:
            tree = {"fetch": {"resolve": {"*.test": server.address}}, "input": {"kind": "table", "paths": ["-"]}}
            begin, busy = time.perf_counter(), time.process_time()
            task = run_stage("fetch", [folder / "pairs.parquet"], folder / "o.parquet", check(tree, "bench"))
            wall, busy = time.perf_counter() - begin, time.process_time() - busy
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False).stdout
    print("| images | kB each | hosts | images/s | images/s per busy core | MB/s | peak MB | kept | commit |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
    print(
        f"| {options.images} | {options.kb} | {options.hosts} | {options.images / wall:.0f} | "
        f"{options.images / busy:.0f} | {options.images * options.kb / 1000 / wall:.0f} | {peak_mb:.0f} | "
        f"{task.books.rows_out} | {commit.strip() or '-'} |"
    )


if __name__ == "__main__":
    main()
