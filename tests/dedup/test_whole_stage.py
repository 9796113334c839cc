"""The stage from feature files to its table, against the definition in Python integers: any rows, shards and ranks."""

from __future__ import annotations

import io
import tempfile
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.config.config import check
from toolkit.data import features
from toolkit.data.ids import column
from toolkit.dedup import node
from toolkit.dedup import ring as rings
from toolkit.dedup import stage as module
from toolkit.dedup import survivors as keeping
from toolkit.dedup.screens import choice
from toolkit.run.plain import run_stage

RANKS = (1, 2, 3, 4, 7)
COARSE = (-1.0, -0.5, 0.0, 2.0**-24, 0.5, 1.0)


class Rows:
    """What the rows of an example are like."""

    @staticmethod
    def scattered(made: Any, rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
        return made.scattered(rng, count, dim)

    @staticmethod
    def clustered(made: Any, rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
        return made.clustered(rng, count, dim, 0.33)

    @staticmethod
    def chained(made: Any, rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
        """An open ring, in which only the next ones are near enough, `link`."""
        return made.chained(count, dim, angle=6 / max(8, count))[rng.permutation(count)]

    @staticmethod
    def equal(made: Any, rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
        return np.repeat(made.scattered(rng, 1, dim), count, axis=0)

    @staticmethod
    def alike(made: Any, rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
        return made.clustered(rng, count, dim, 0.05, centres=1)

    @staticmethod
    def coarse(made: Any, rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
        """Ties, equal and parallel rows, rows at right angles, and the zero vector."""
        return rng.choice(COARSE, size=(count, dim), p=[0.04, 0.04, 0.8, 0.04, 0.04, 0.04]).astype(np.float16)

    @staticmethod
    def broken(made: Any, rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
        rows = made.clustered(rng, count, dim, 0.2)
        rows[rng.random(count) < 0.2] = 0
        rows[rng.random(count) < 0.2, dim - 1] = rng.choice([np.nan, np.inf, -np.inf])
        return rows


KINDS = [name for name in vars(Rows) if not name.startswith("_")]


def link(count: int) -> float:
    """A limit that joins a chained row with the next and not with the one after it."""
    return float(1 - np.cos(1.5 * 6 / max(8, count)))


def limit(reference: Any, points: list[list[int]], rng: np.random.Generator, how: str) -> float:
    """The shipped limit, or one at the very distance of one of the nearest pairs, or just beyond it."""
    found = sorted({reference.distance(x, y) for x, y in combinations(points, 2)})
    found = [exact for exact in found if 1e-6 < exact < 1.9][:4]
    if how == "shipped" or not found:
        return 0.1
    exact = found[rng.integers(len(found))]
    return exact if how == "at a pair" else float(np.nextafter(exact, 3))


def by_ranks(ring: Any, shards: list[np.ndarray], ids: np.ndarray, ranks: int, **dedup: object) -> tuple[list, dict]:
    """The rows of the stage's table, and what it has counted as dropped."""
    with tempfile.TemporaryDirectory() as folder:
        paths, at = [], 0
        for number, rows in enumerate(shards):
            sink = io.BytesIO()
            features.write(sink, ids=ids[at : at + len(rows)], image=[rows], dim=rows.shape[1])
            paths.append(Path(folder) / f"{number:03d}.h5")
            paths[-1].write_bytes(sink.getvalue())
            at += len(rows)
        config = check({"input": {"kind": "table", "paths": ["-"]}, "dedup": dedup}, "test")
        output = Path(folder) / "found.parquet"
        tasks = ring.together(ranks, lambda world: run_stage("dedup", paths, output, config, world))
        return pq.read_table(output).to_pylist(), dict(tasks[0].books.drops)


@given(
    st.sampled_from(KINDS),
    st.lists(st.sampled_from([0, 0, 1, 1, 2, 4, 8]), min_size=1, max_size=6),
    st.sampled_from([8, 8, 8, 16, 64, 1024]),
    st.sampled_from(["shipped", "at a pair", "beyond a pair"]),
    st.sampled_from(["centroid", "first"]),
    st.sampled_from(RANKS),
    st.sampled_from([1, 1, 3, 8, 2048]),
    st.integers(0, 2**32),
)
@settings(max_examples=80)
def test_the_table_is_that_of_the_definition(
    ring, reference, made, kind, sizes, dim, how, keep, ranks, block, seed
) -> None:
    rng = np.random.default_rng(seed)
    rows = getattr(Rows, kind)(made, rng, sum(sizes), dim)
    ids = made.some_ids(rng, len(rows))
    valid = np.isfinite(rows).all(axis=1) & (rows != 0).any(axis=1)
    plain = np.where(valid[:, None], rows, 0).astype(np.float16)
    distance = limit(reference, reference.whole(plain[valid]), rng, how)
    if kind == "chained" and how == "shipped":
        distance = link(len(rows))
    roots = reference.sets(plain, distance)
    expected = reference.choose(plain, roots, [one.tobytes() for one in ids], keep)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "block_rows", lambda rows: block)
        patch.setattr(keeping, "WINDOW_ROWS", int(rng.choice([1, 7, 4096])))
        patch.setattr(node, "MERGE_ROWS", 5)
        patch.setattr(node, "hosts", lambda world: [str(rank % 3) for rank in range(world.size)])
        patch.setattr(choice, "PANEL_BYTES", int(rng.choice([1, 1 << 20])))
        found, drops = by_ranks(ring, np.split(rows, np.cumsum(sizes)[:-1]), ids, ranks, distance=distance, keep=keep)
    names = column(ids).to_pylist()
    stays = [row for row, _, _ in expected]
    assert [one["id"] for one in found] == names
    assert [one["set"] for one in found] == [names[row] for row in stays]
    assert [(one["size"], one["distance"]) for one in found] == [(size, off) for _, size, off in expected]
    why = ["embed.invalid" if not valid[i] else None if stays[i] == i else "dedup.batch" for i in range(len(rows))]
    assert [one["dropped"] for one in found] == why
    assert drops == {step: why.count(step) for step in set(why) - {None}}


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_join_that_saves_more_than_once_ends_like_any_other(ring, made, monkeypatch, ranks) -> None:
    """On plain files there is no later attempt, but the parts are written all the same."""
    rng = np.random.default_rng(18)
    rows, ids = made.clustered(rng, 90, 8, 0.3, centres=9), made.some_ids(rng, 90)
    shards = np.split(rows, [30])
    expected = by_ranks(ring, shards, ids, ranks, distance=0.1)
    monkeypatch.setattr(module, "block_rows", lambda rows: 16)
    monkeypatch.setattr(choice, "PANEL_BYTES", 1)
    monkeypatch.setattr(rings, "SAVE_FLOPS", 0)
    monkeypatch.setattr(rings, "SAVES", 10**9)
    assert by_ranks(ring, shards, ids, ranks, distance=0.1) == expected


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("kind", ["equal", "alike", "chained"])
def test_one_set_as_large_as_everything(ring, made, monkeypatch, kind, ranks) -> None:
    """Shards of a row, of none and of many; the set reaches over all ranks."""
    monkeypatch.setattr(module, "block_rows", lambda rows: 16)
    monkeypatch.setattr(keeping, "WINDOW_ROWS", 50)
    rng = np.random.default_rng(17)
    rows, ids = getattr(Rows, kind)(made, rng, 203, 8), made.some_ids(rng, 203)
    distance = link(203) if kind == "chained" else 0.1
    found, drops = by_ranks(ring, np.split(rows, [1, 1, 2, 150]), ids, ranks, distance=distance)
    assert {one["size"] for one in found} == {203}
    assert len({one["set"] for one in found}) == 1
    assert drops == {"dedup.batch": 202}
    if kind == "equal":
        assert found[0]["set"] == min(column(ids).to_pylist())
