"""The door to the disk: what it says is finished has reached the disk, and it leaves nothing behind."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from toolkit.run import files
from toolkit.run.task import Books


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The paths that were brought to the disk."""
    paths: set[str] = set()
    fsync = os.fsync

    def record(descriptor: int) -> None:
        paths.add(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    return paths


def test_an_output_that_its_stage_closed_reaches_the_disk_too(tmp_path: Path, synced: set[str]) -> None:
    books = Books(tmp_path)
    with books.create("000/000001.h5") as file:
        file.write(b"features")
    books.create("000/000001.parquet").write(b"table")
    outputs = books.finish()
    assert {str(tmp_path / Path(o.path).name) for o in outputs} == synced
    assert [o.bytes for o in outputs] == [8, 5]


def test_new_folders_reach_the_disk_with_their_names(tmp_path: Path, synced: set[str]) -> None:
    files.make(tmp_path / "a" / "b")
    assert synced >= {str(tmp_path), str(tmp_path / "a")}


def test_a_folder_whose_maker_was_cut_off_reaches_the_disk_at_the_next_use(tmp_path: Path, synced: set[str]) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    files.make(tmp_path / "a" / "b")
    assert synced >= {str(tmp_path), str(tmp_path / "a")}
    synced.clear()
    files.make(tmp_path / "a" / "b")
    assert synced == set()


def test_a_derived_file_that_can_not_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space"):
        files.replace(tmp_path / "funnel.json", b"{}")
    assert list(tmp_path.iterdir()) == []


def test_a_token_tells_whether_its_maker_lives() -> None:
    assert not files.dead(files.token())
    gone = subprocess.Popen(["true"])
    gone.wait()
    ours, _, rest = files.token().rpartition("-")[0].rpartition("-")
    assert rest == str(os.getpid())
    assert files.dead(f"{ours}-{gone.pid}-00ff")
    assert not files.dead(f"another{socket.gethostname()}-{gone.pid}-00ff")
    assert not files.dead("parts-8f")
