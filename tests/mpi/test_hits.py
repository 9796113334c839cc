"""A rank that is hit at any instant, again and again, costs what was not saved, and never changes a byte."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from tests.crawl import tree
from toolkit.recipe import BY_NAME
from toolkit.run.task import attempt

PROGRAM = Path(__file__).with_name("hit.py")
# The largest call at which each part of the work is hit: with four ranks none has fewer.
CALLS = {"join": 60, "save": 12, "merge": 2, "choose": 9, "write": 2}

pytestmark = pytest.mark.prove


def published(run) -> dict[str, str]:
    return {name: digest for name, digest in tree(Path(run.layout.root)).items() if name.startswith("60")}


def blows(rng: random.Random) -> list[tuple[int, str]]:
    """Ranks, and what hits one of them: each part of the work and times, in the order in which work goes on."""
    places = ["time", "join", "save", "time", "join", "merge", "choose", "write"]
    found = []
    for place in places:
        ranks = rng.choice((2, 3, 4))
        when = f"{rng.uniform(0, 0.4):.3f}" if place == "time" else str(rng.randint(1, CALLS[place]))
        rank = 0 if place == "write" else rng.randrange(ranks)
        what = "kill" if place in ("choose", "write") else rng.choice(("kill", "stop"))  # too late to stop
        found.append((ranks, f"{what}:{rank}:{place}:{when}"))
    return found


class Log:
    """What the ranks have written down of all attempts so far."""

    def __init__(self, path: Path) -> None:
        self.path, self.seen = path, 0
        self.joined: set[tuple[int, int]] = set()
        self.saved: set[tuple[int, int]] = set()
        self.hits: Counter[str] = Counter()

    def attempt(self) -> None:
        """Read on: what earlier attempts have saved is not joined again."""
        lines = self.path.read_text().splitlines()[self.seen :]
        self.seen += len(lines)
        pairs: list[tuple[int, tuple[int, int]]] = []  # in which save of its rank, and which pair
        sent: Counter[str] = Counter()
        saved = 0
        for kind, *words in map(str.split, lines):
            if kind == "hit":
                self.hits[" ".join(words)] += 1
            elif kind == "sent":
                sent[words[0]] += 1
            elif kind == "saved":
                saved = sent["0"]
            else:
                pairs.append((sent[words[0]], (int(words[1]), int(words[2]))))
        assert not {pair for _, pair in pairs} & self.saved, "a saved pair was joined again"
        kept = {pair for turn, pair in pairs if turn < saved}
        self.joined |= {pair for _, pair in pairs}
        self.saved |= kept  # and maybe those of a save that was hit when it was through


@pytest.mark.parametrize("seed", [1, 2])
def test_a_rank_hit_at_any_instant(launch, embedded, tmp_path, seed):
    plain, run = embedded("plain"), embedded("hit")
    attempt(plain, BY_NAME["dedup"], 0)
    rng, log = random.Random(seed), Log(tmp_path / "log")
    log.path.touch()
    task = (PROGRAM, "task", run.layout.root, "dedup")
    for number, (ranks, fault) in enumerate([*blows(rng), (3, "")]):
        done = launch(ranks, *task, FAULT=fault, LATE=f"{seed} {number}", LOG=str(log.path))
        log.attempt()
        if fault:
            assert done.returncode != 0, (ranks, fault, done.stdout)
            assert not published(run), (ranks, fault)
    assert done.returncode == 0, done.stderr
    assert published(run) == published(plain)
    assert len(log.joined) == 18 * 19 // 2
    assert len(log.saved) > 18 * 19 // 4
    assert len({hit.split()[1] for hit in log.hits}) == 6, log.hits
