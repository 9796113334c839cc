"""Images a second on one core: decoding alone, the stage image in this process, and through its child process.

    python tools/bench/image.py FOLDER_OF_JPEGS [ROUNDS]

Prints a row for docs/benchmarks.md: the best of the rounds, which lie side by side so that a busy machine hits all.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path

from toolkit.config.image import Image
from toolkit.image.decode import decode
from toolkit.image.measures import measured
from toolkit.image.stage import guard

LEAST = 200  # images a round; a smaller folder is gone through several times


def main(folder: Path, rounds: int) -> None:
    """Measure the three ways and print a row of markdown."""
    section = Image()
    files = [path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix.lower() in (".jpg", ".jpeg")]
    data = list(itertools.islice(itertools.cycle(files), max(LEAST, len(files))))
    with guard(section, "toolkit.image.measures:measured") as child:
        ways: dict[str, Callable[[], object]] = {
            "decode": lambda: [decode(item, section.max_pixels) for item in data],
            "measure": lambda: [measured(item, section.max_pixels) for item in data],
            "child": lambda: list(child.map(data)),
        }
        speeds = dict.fromkeys(ways, 0.0)
        for _ in range(rounds):
            for name, way in ways.items():
                speeds[name] = max(speeds[name], len(data) / _seconds(way))
    size = sum(map(len, data)) / len(data) / 1000
    print("| images | mean kB | decode /s | measure /s | of decode | through the child /s | of decode |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    decoded, inside, through = speeds.values()
    shares = f"{inside:.0f} | {inside / decoded:.0%} | {through:.0f} | {through / decoded:.0%} |"
    print(f"| {folder.name} | {size:.0f} | {decoded:.0f} | {shares}")


def _seconds(way: Callable[[], object]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 5)
