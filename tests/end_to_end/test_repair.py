"""Damage done to a finished run is found by `verify` and mended by `repair`, and the bytes are as before."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crawl import config, danqing, tree
from toolkit.demo import show


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A finished run of a small demo, and its configuration; the server stays for what is fetched again."""
    folder = tmp_path_factory.mktemp("repair")
    crawl = folder / "crawl"
    danqing("demo", "--make-only", crawl, "--pairs", "300")
    with show.served(crawl) as port:
        blacklist = {"blacklist": str(crawl / "hosts.txt")}
        path = config(folder, crawl, f"127.0.0.1:{port}", source=blacklist)
        danqing("run", path)
        yield folder / "run", path


def flip(path: Path, place: float) -> None:
    """Flip one bit."""
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 4
    path.write_bytes(data)


def problems(run: Path) -> set[tuple[str, int]]:
    done = danqing("verify", run, "--json", code=1)
    return {(p["stage"], p["unit"]) for p in json.loads(done.stdout)["problems"]}


def attempts(run: Path) -> dict[Path, str]:
    """Which attempt finished each unit; another one where it was done again."""
    return {path: json.loads(path.read_text())["facts"]["attempt"] for path in run.glob("*/done/**/*.json")}


def test_flipped_bits_missing_files_and_marks_and_strays_are_found_and_mended(finished: tuple[Path, Path]) -> None:
    run, _ = finished
    before = tree(run)
    flip(run / "20_text/data/000/000001.parquet", 0.5)
    flip(run / "30_fetch/data/000/000002.tar", 0.4)
    flip(run / "50_embed/data/000/000003.h5", 0.9)
    (run / "90_export/data/000/000000.tar").unlink()
    (run / "40_image/done/000/000001.json").unlink()
    flip(run / "10_source/done/000/000002.json", 0.1)
    (run / "40_image/data/000/000009.parquet").write_bytes(b"left over")
    found = problems(run)
    assert found >= {("text", 1), ("fetch", 2), ("embed", 3), ("export", 0), ("image", 1), ("source", 2), ("image", 0)}
    danqing("repair", run)
    assert tree(run) == before
    danqing("verify", run)


def test_only_what_is_damaged_is_done_again(finished: tuple[Path, Path]) -> None:
    run, _ = finished
    marks = attempts(run)
    flip(run / "20_text/data/000/000000.parquet", 0.3)
    danqing("repair", run)
    now = attempts(run)
    assert [p.relative_to(run).as_posix() for p in now if now[p] != marks.get(p)] == ["20_text/done/000/000000.json"]


def test_a_damaged_mark_is_redone_by_run_alone(finished: tuple[Path, Path]) -> None:
    """Before the stage is folded nobody else knows of the unit: the mark's remains must not be in the way."""
    run, path = finished
    before = tree(run)
    mark = run / "40_image/done/000/000002.json"
    mark.write_bytes(mark.read_bytes()[:50])
    (run / "40_image/done.parquet").unlink()
    danqing("run", path)
    assert json.loads(mark.read_bytes())["unit"] == 2
    assert tree(run) == before
    danqing("verify", run)


def test_a_run_goes_on_when_its_input_has_moved(tmp_path: Path) -> None:
    crawl = tmp_path / "crawl"
    danqing("demo", "--make-only", crawl, "--pairs", "300")
    path = config(tmp_path, crawl, "127.0.0.1:9", source={"blacklist": str(crawl / "hosts.txt")})
    danqing("run", path, "--until", "source", "--set", "executor.kind=inline")
    before = tree(tmp_path / "run")
    for file in (tmp_path / "run").glob("10_source/done*/**/*.json"):
        file.unlink()
    (tmp_path / "run/10_source/done.parquet").unlink()
    crawl.rename(tmp_path / "moved")
    path.write_text(path.read_text().replace(str(crawl), str(tmp_path / "moved")))
    danqing("run", path, "--until", "source")
    assert tree(tmp_path / "run") == before


def test_an_input_file_that_is_gone_fails_its_shard_and_loses_nothing(tmp_path: Path) -> None:
    crawl = tmp_path / "crawl"
    danqing("demo", "--make-only", crawl, "--pairs", "300")
    path = config(tmp_path, crawl, "127.0.0.1:9", source={"blacklist": str(crawl / "hosts.txt")})
    danqing("run", path, "--until", "source", "--set", "executor.kind=inline")
    run = tmp_path / "run"
    before = tree(run)
    (run / "10_source/done/000/000001.json").unlink()
    (run / "10_source/done.parquet").unlink()
    gone = sorted((crawl / "wat").iterdir())[1]
    gone.rename(tmp_path / "away")
    failed = danqing("task", run, "source", code=1)
    assert gone.name in failed.stdout
    (tmp_path / "away").rename(gone)
    danqing("task", run, "source")
    assert tree(run) == before


def altered(path: Path, **values: object) -> None:
    """Change what a mark says, so that it is a mark all the same."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_marks_that_say_something_else_are_found_and_mended(finished: tuple[Path, Path]) -> None:
    run, _ = finished
    before = tree(run)
    altered(run / "40_image/done/000/000000.json", rows_out=7)
    altered(run / "50_embed/done/000/000001.json", inputs={"text": "0" * 32})
    altered(run / "20_text/done/000/000002.json", version=99)
    beyond = json.loads((run / "10_source/done/000/000000.json").read_text()) | {"unit": 77}
    (run / "10_source/done/000/000077.json").write_text(json.dumps(beyond))
    assert problems(run) >= {("image", 0), ("embed", 1), ("text", 2), ("source", 77)}
    danqing("repair", run)
    assert tree(run) == before
    danqing("verify", run)


def test_a_recipe_that_was_edited_in_the_run_folder_is_refused(finished: tuple[Path, Path]) -> None:
    """To redo a unit by it would publish other bytes under the old digest."""
    run, _ = finished
    right = (run / "run.yaml").read_text()
    (run / "run.yaml").write_text(right.replace("distance: 0.1", "distance: 0.5"))
    for command in ("verify", "repair"):
        assert "Restore them" in danqing(command, run, code=1).stderr
    (run / "run.yaml").write_text(right)
    danqing("verify", run)


def test_an_image_that_was_exchanged_in_the_dataset_is_found(finished: tuple[Path, Path]) -> None:
    """With mark and manifest made to fit, the table's digests tell."""
    run, _ = finished
    tar = run / "90_export/data/000/000001.tar"
    with tarfile.open(tar) as opened:
        member = next(m for m in opened if not m.name.endswith((".txt", ".json")))
    data = bytearray(tar.read_bytes())
    data[member.offset_data + member.size // 2] ^= 1
    tar.write_bytes(data)
    old = next(o for o in json.loads(mark(run, 1).read_text())["outputs"] if o["path"].endswith(".tar"))["digest"]
    new = hashlib.blake2b(data, digest_size=32).hexdigest()
    for path in (mark(run, 1), run / "90_export/data/manifest.json"):
        path.write_text(path.read_text().replace(old, new))
    (run / "90_export/done.parquet").unlink()
    done = danqing("verify", run, "--json", code=1)
    assert any("is not the one that was fetched" in p["what"] for p in json.loads(done.stdout)["problems"])
    danqing("repair", run)
    danqing("verify", run)


def mark(run: Path, unit: int) -> Path:
    return run / f"90_export/done/000/{unit:06d}.json"
