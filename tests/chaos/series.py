"""`make chaos N=1000 SEED=1`: so many seeds, from this one on, in as many processes as there are processors."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

from tests.chaos.play import Broken, Play, Scene, prepared

_scene: list[Scene] = []
_open = ExitStack()


def _begin() -> None:
    _scene.append(_open.enter_context(prepared()))


def _play(seed: int) -> tuple[int, str, dict[str, int], int]:
    play = Play(_scene[0], seed)
    try:
        play.run()
    except Broken as error:
        return seed, str(error), play.injected, play.start
    return seed, "", play.injected, play.start


def _played(seeds: range, processes: int) -> Iterator[tuple[int, str, dict[str, int], int]]:
    if processes == 1:
        _begin()
        yield from map(_play, seeds)
        _open.close()
        return
    with multiprocessing.get_context("spawn").Pool(processes, _begin) as pool:
        yield from pool.imap_unordered(_play, seeds)


def main() -> None:
    """Play the seeds; end with 1 where one broke a promise."""
    number, first = int(sys.argv[1]), int(sys.argv[2])
    injected: Counter[str] = Counter()
    starts = broken = 0
    processes = min(len(os.sched_getaffinity(0)), number)
    for played, (_seed, story, faults, started) in enumerate(_played(range(first, first + number), processes), 1):
        injected.update(faults)
        starts += started
        if story:
            broken += 1
            print(story, flush=True)
        if played % 100 == 0:
            print(f"{played} seeds, {broken} broken", flush=True)
    faults_all = sum(injected.values())
    kinds = ", ".join(f"{count} {kind}" for kind, count in injected.most_common())
    print(f"{number} seeds from {first}: {faults_all} faults ({kinds}), {starts} starts, {broken} broken")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
