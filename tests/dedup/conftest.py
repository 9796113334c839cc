"""What the tests of toolkit.dedup compare with, and the rows they are given."""

from __future__ import annotations

import math

import numpy as np
import pytest


class Reference:
    """The definition of near-duplicates in Python integers, pair by pair: slow, plain, and independent."""

    @staticmethod
    def whole(rows: np.ndarray) -> list[list[int]]:
        """Rows as integers of 2^-24."""
        return [[int(float(value) * 2**24) for value in row] for row in rows]

    @staticmethod
    def product(x: list[int], y: list[int]) -> float:
        """x.y, rounded once."""
        return float(sum(a * b for a, b in zip(x, y, strict=True))) / 2**48

    @staticmethod
    def distance(x: list[int], y: list[int]) -> float:
        length = math.sqrt(Reference.product(x, x) * Reference.product(y, y))
        return 1.0 - (Reference.product(x, y) / length if length else 0.0)

    @staticmethod
    def sets(rows: np.ndarray, limit: float) -> list[int]:
        """The smallest row number of each row's set."""
        points = Reference.whole(rows)
        root = list(range(len(points)))
        for i, x in enumerate(points):
            for j in range(i):
                if any(x) and any(points[j]) and root[i] != root[j] and Reference.distance(x, points[j]) < limit:
                    low, high = sorted((root[i], root[j]))
                    root = [low if r == high else r for r in root]
        return root

    @staticmethod
    def choose(rows: np.ndarray, root: list[int], ids: list[bytes], keep: str) -> list[tuple[int, int, float]]:
        """(row of the survivor, size of the set, distance to the centroid) of each row."""
        points = Reference.whole(rows)
        result: list[tuple[int, int, float]] = [(i, 1, 0.0) for i in range(len(points))]
        for first in set(root):
            members = [i for i, r in enumerate(root) if r == first]
            if len(members) == 1:
                continue
            centroid = [sum(values) for values in zip(*(points[i] for i in members), strict=True)]
            nano = {i: math.floor(Reference.distance(points[i], centroid) * 1e9 + 0.5) for i in members}
            plain = keep == "first" or len(members) == 2
            stays = min(members, key=lambda i: (0 if plain else nano[i], ids[i], i))
            for i in members:
                result[i] = (stays, len(members), nano[i] / 1e9)
        return result


class Made:
    """Rows for the tests, from a generator that the caller seeds."""

    @staticmethod
    def unit(rows: np.ndarray) -> np.ndarray:
        """Rows of length one, stored as float16."""
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)

    @staticmethod
    def scattered(rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
        return Made.unit(rng.standard_normal((count, dim)))

    @staticmethod
    def clustered(rng: np.random.Generator, count: int, dim: int, spread: float, centres: int = 4) -> np.ndarray:
        """Rows around a few centres; the cosine of two of one cluster is about 1 / (1 + spread^2)."""
        middle = rng.standard_normal((centres, dim))
        noise = rng.standard_normal((count, dim))
        return Made.unit(middle[rng.integers(centres, size=count)] + spread * noise)

    @staticmethod
    def chained(count: int, dim: int, angle: float) -> np.ndarray:
        """Rows that each lie `angle` radians from the next, on a circle in the first two values."""
        rows = np.zeros((count, dim))
        rows[:, 0], rows[:, 1] = np.cos(angle * np.arange(count)), np.sin(angle * np.arange(count))
        return rows.astype(np.float16)

    @staticmethod
    def some_ids(rng: np.random.Generator, count: int) -> np.ndarray:
        return rng.integers(256, size=(count, 16), dtype=np.uint8)


@pytest.fixture(scope="session")
def reference() -> type[Reference]:
    return Reference


@pytest.fixture(scope="session")
def made() -> type[Made]:
    return Made
