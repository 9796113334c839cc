"""The promise, by seed: killed anywhere, with any disk, a run comes out the same. And proof that the harness bites."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from tests.chaos.disk import Disk
from tests.chaos.play import CRASHES, FATES, Broken, Play, Scene
from toolkit.data.stage import Output, Stage
from toolkit.dedup.exact import Int
from toolkit.dedup.ledger import Ledger
from toolkit.run import files, ledger, task
from toolkit.run.layout import Layout
from toolkit.run.parts import Parts

SEEDS = 60
ENOUGH = 60  # seeds in which a harness that bites must have found a planted fault

pytestmark = pytest.mark.prove


def test_every_seed_ends_in_the_same_bytes(scene: Scene) -> None:
    plays = [Play(scene, seed) for seed in range(1, SEEDS + 1)]
    for play in plays:
        play.run()
    injected = sum((play.injected for play in plays), Counter())
    assert injected.total() >= SEEDS
    assert set(injected) == set(FATES), "each kind had its effect somewhere"


def test_the_same_seed_makes_the_same_play(scene: Scene) -> None:
    stories = []
    for _ in range(2):
        play = Play(scene, 7)
        play.run()
        stories.append((play.story, play.injected, play.count))
    assert stories[0] == stories[1]


def no_sync_of_files(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(files, "finish", lambda path, file: file.close())


def no_sync_of_folders(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(files, "sync", lambda folder: None)


def mark_before_data(patch: pytest.MonkeyPatch) -> None:
    def forward(layout: Layout, stage: Stage, unit: int) -> None:
        attempt = ledger.chosen(layout, stage, unit)
        if attempt is not None and (attempt / "mark.json").exists():
            files.make(layout.mark(stage, unit).parent)
            files.link(attempt / "mark.json", layout.mark(stage, unit))
            files.sync(layout.mark(stage, unit).parent)
            for path in attempt.iterdir():
                if path.name not in ("mark.json", "winner"):
                    target = layout.data(stage) / f"{unit // 1000:03d}" / path.name
                    target = layout.data(stage) / path.name if path.suffix in (".md", ".json") else target
                    files.make(target.parent)
                    files.link(path, target)
                    files.sync(target.parent)

    patch.setattr(ledger, "forward", forward)


def no_digests(patch: pytest.MonkeyPatch) -> None:
    def trust(layout: Layout, stage: Stage, output: Output) -> Path:
        return layout.file(stage, output.path)

    patch.setattr(task, "check_output", trust)


def rename_over(patch: pytest.MonkeyPatch) -> None:
    def link(source: Path, target: Path) -> bool:
        copy = target.with_name(f".{files.token()}")
        files.system.link(source, copy)
        files.system.rename(copy, target)
        return True

    patch.setattr(files, "link", link)


def short_reads(patch: pytest.MonkeyPatch) -> None:
    def digest(path: Path) -> str:
        with path.open("rb", buffering=0) as file:
            return hashlib.blake2b(file.read(path.stat().st_size), digest_size=32).hexdigest()

    patch.setattr(files, "digest", digest)


def no_digests_of_parts(patch: pytest.MonkeyPatch) -> None:
    def trust(parts: Parts, part: int, suffix: str) -> IO[bytes]:
        name, _, _ = parts._load(part).files[suffix]
        return (parts._folder / name).open("rb")

    patch.setattr(Parts, "load", trust)


def pairs_before_unions(patch: pytest.MonkeyPatch) -> None:
    """What is joined is taken down in one part, and what came of it in the next."""
    write = Ledger._write

    def by_turns(self: Ledger, counts: list[tuple[int, int]], pairs: Int, edges: Int) -> None:
        write(self, [(len(pairs), 0)], pairs, edges[:0])
        write(self, [(0, len(edges))], pairs[:0], edges)

    patch.setattr(Ledger, "_write", by_turns)


@pytest.mark.parametrize(
    ("planted", "options"),
    [
        (no_sync_of_files, {"fates": CRASHES}),
        (no_sync_of_folders, {"fates": CRASHES}),
        (mark_before_data, {"fates": CRASHES}),
        # Tables and images have checksums of their own besides.
        (no_digests, {"fates": ("rot",), "only": "dedup", "rots": "*.h5"}),
        (rename_over, {"fates": ("rival",), "only": "fetch"}),  # where two attempts have different bytes
        (short_reads, {}),
        (no_digests_of_parts, {"fates": ("rotten part", *CRASHES), "only": "merge"}),
        (pairs_before_unions, {"fates": CRASHES, "only": "merge"}),
    ],
)
def test_it_finds_a_planted_fault(
    scene: Scene,
    planted: Callable[[pytest.MonkeyPatch], None],
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planted(monkeypatch)
    with pytest.raises(Broken):
        for seed in range(1, ENOUGH + 1):
            Play(scene, seed, **options).run()


def test_the_disk_of_the_harness_forgets_what_was_not_synced(tmp_path: Path) -> None:
    """Without this the harness would prove nothing about fsync."""

    def play(synced: bool, seed: int) -> Any:
        folder = tmp_path / f"{synced}{seed}"
        (folder / "trash").mkdir(parents=True)
        disk = Disk(lambda call, path: None, folder / "trash", random.Random(seed))
        with disk.create(folder / "one") as file:
            file.write(b"x" * 100)
        if synced:
            disk.sync_file(folder / "one")
            disk.sync_folder(folder)
        disk.lose()
        return (folder / "one").read_bytes() if (folder / "one").exists() else None

    assert all(play(True, seed) == b"x" * 100 for seed in range(20))
    lost = {play(False, seed) for seed in range(40)}
    assert None in lost and b"x" * 100 in lost and any(found and len(found) < 100 for found in lost)
