"""Bad input costs what is bad, counted and named; a wrong command ends in one paragraph and exit code 2."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.crawl import config, danqing

# Run the command in this very process and say how much memory it took at its peak, in KiB. (Not by ru_maxrss: a new
# process begins with that of the one that started it, here the tests' own.)
PEAK = """
from pathlib import Path
from toolkit.cli import main
try:
    main()
finally:
    print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""
LOOPBACK = "127.0.0.1:9"  # the discard port: nothing here goes to the network before the stage fetch


def sources(run: Path) -> list[str]:
    return [
        i for p in sorted((run / "10_source" / "data").rglob("*.parquet")) for i in pq.read_table(p)["id"].to_pylist()
    ]


def test_damaged_files_cost_themselves_and_are_named_in_status(shared: Path, tmp_path: Path) -> None:
    """Files of 128 pairs: one whole, one cut, one with a flipped byte; one that is no WARC, and an empty one."""
    crawl = tmp_path / "crawl"
    (crawl / "wat").mkdir(parents=True)
    whole = sorted((shared / "crawl" / "wat").glob("*.gz"))
    data = [path.read_bytes() for path in whole]
    flipped = bytearray(data[2])
    flipped[len(flipped) // 2] ^= 0xFF
    for name, content in {
        "a": data[0],
        "b": data[1][: len(data[1]) // 2],
        "c": bytes(flipped),
        "d": b"this is no crawl file\n" * 100,
        "e": b"",
    }.items():
        (crawl / "wat" / f"{name}.warc.wat.gz").write_bytes(content)
    path = config(tmp_path, crawl, LOOPBACK)
    danqing("run", path, "--until", "source")

    clean = config(tmp_path, shared / "crawl", LOOPBACK, name="clean")
    danqing("run", clean, "--until", "source")
    expected = sources(tmp_path / "clean")
    found = set(sources(tmp_path / "run"))
    assert found <= set(expected)
    lost_of_c = 128 - len(found & set(expected[256:384]))
    assert set(expected[:128]) <= found
    assert 0 < len(found & set(expected[128:256])) < 128
    assert 0 < lost_of_c <= 10, "one bad member may cost one page of pairs"
    state = json.loads(danqing("status", tmp_path / "run", "--json").stdout)
    named = {Path(d["where"].split(".gz")[0]).name[0] for d in state["damage"]}
    assert named >= {"b", "c", "d", "e"}
    assert "a" not in named
    assert state["damages"] >= 4


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"input": {"kind": "wat", "paths": ["/nowhere/*.gz"]}}, 2, ["/nowhere/*.gz", "matches no file"]),
        ({"dedup": {"distanse": 0.1}}, 2, ["dedup.distanse", "did you mean distance"]),
        ({"batches": "two"}, 2, ["batches", '"two"']),
        ({"fetch": {}}, 2, ["contact"]),
        ({"text": {"tokenizer": "/nowhere"}}, 2, ["text.tokenizer", "/nowhere"]),
        ({"run_dir": "/proc/run"}, 2, ["/proc/run"]),
    ],
)
def test_wrong_configurations_end_in_one_paragraph(
    crawl: Path, tmp_path: Path, options: dict[str, object], code: int, words: list[str]
) -> None:
    path = config(tmp_path, crawl, LOOPBACK, **options)
    done = danqing("run", path, code=code)
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stdout + done.stderr
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["status", "nowhere"], ["no run folder"]),
        (["run", "nowhere.yaml"], ["nowhere.yaml", "can not be read"]),
        (["stage", "sauce", "--input", "x", "--output", "y"], ["no stage", "source"]),
        (["stage", "text", "--input", "nowhere", "--output", "y"], ["nowhere", "matches no file"]),
        (["frobnicate"], ["frobnicate"]),
    ],
)
def test_wrong_commands_end_with_two(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    done = danqing(*arguments, code=2, cwd=tmp_path)
    for word in words:
        assert word in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_loses_nothing_that_was_finished(crawl: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=260k", "tmpfs", disk], check=False, capture_output=True
    ).returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        path = config(tmp_path, crawl, LOOPBACK, run_dir=str(disk / "run"))
        (disk / "ballast").write_bytes(b"x" * 200_000)
        done = danqing("run", path, "--until", "text", "--set", "executor.retries=0", code=1)
        assert "No space left" in done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        kept = [(p, p.stat().st_ino) for p in (disk / "run").glob("*/done/**/*.json")]
        (disk / "ballast").unlink()
        danqing("run", path, "--until", "text")
        assert [(p, p.stat().st_ino) for p, _ in kept] == kept
    finally:
        subprocess.run(["umount", disk], check=True)


def test_memory_of_a_task_does_not_grow_with_the_number_of_shards(tmp_path: Path) -> None:
    """The peak of `task unique` and `task text` over 8 and over 80 shards of 500 pairs."""
    peaks = []
    for shards in (8, 80):
        crawl = tmp_path / f"crawl{shards}"
        (crawl / "table").mkdir(parents=True)
        for number in range(shards):
            rows = "".join(f"http://a.example.test/{number}-{i}.jpg,一张风景照片{i}\n" for i in range(500))
            (crawl / "table" / f"{number:03d}.csv.gz").write_bytes(gzip.compress(("url,text\n" + rows).encode()))
        path = config(tmp_path, crawl, LOOPBACK, "table", f"run{shards}", executor={"kind": "inline"})
        danqing("run", path, "--until", "words")
        task = [sys.executable, "-c", PEAK, "task", str(tmp_path / f"run{shards}"), "text", "--units", "3"]
        peaks.append(int(subprocess.run(task, capture_output=True, text=True, check=True).stdout.split()[-1]))
    assert peaks[1] < 1.1 * peaks[0], peaks
