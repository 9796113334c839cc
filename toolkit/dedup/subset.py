"""The answer of a finished join for fewer rows or a smaller distance: only sets that may change are joined again.

A set holds every edge of its rows. So of fewer rows, or below a smaller distance, every new set lies inside an old one:
those that lost rows, or all where the distance is smaller, are joined inside themselves, and of the others nothing is
read. No edge leads from one old set to another, so many of them are joined as if they were one.

Promise: the answer is that of a join of the remaining rows alone, to the last bit. Work and reading go with the rows of
the sets that may change; memory is READ_ROWS of their features, or those of the largest such set, what a join of those
takes, and about 100 bytes for every row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import IO

import numpy as np

from toolkit.data.ids import Ids, words
from toolkit.data.world import ALONE
from toolkit.dedup.exact import Float, Half, Int, Mask
from toolkit.dedup.ledger import Ledger
from toolkit.dedup.ring import components
from toolkit.dedup.share import Share, block_rows
from toolkit.dedup.survivors import Keep, Survivors, survivors, windows

READ_ROWS = 1 << 16  # rows whose features are held at once: 100 MB at 768 values
GROUP_ROWS = 1024  # rows of small sets that are joined together: as many as cost no more than the call itself

Read = Callable[[Int], Half]  # returns the stored rows (m, d) of these ascending numbers


def subset(
    before: Survivors,
    alive: Mask,
    ids: Ids,
    read: Read,
    *,
    joined: float,
    distance: float,
    keep: Keep = "centroid",
    worth: Float | None = None,
) -> Survivors:
    """Return the answer of a join of the rows that are alive, under the numbers that they had.

    before: the answer for all n rows of an exact join below `joined`, by the same rule `keep` · alive (n,),
    ids (n, 16), worth (n,) as `survivors` takes it. Raises ValueError where `distance` is above `joined`, since sets
    may then grow together, and where a set has to be joined again that an earlier row, none of the n, stands for.
    """
    if distance > joined:
        raise ValueError(f"sets below {joined} do not tell those below {distance}: all rows have to be joined")
    answer = _taken(before, alive)
    members = _open(before, alive, smaller=distance < joined)
    for part in _whole(before.row[members], READ_ROWS):
        numbers = members[part]
        rows = _rows(read, numbers)
        for group in _whole(before.row[numbers], GROUP_ROWS):
            own = numbers[group]
            found = _join(rows[group], ids[own], distance, keep, None if worth is None else worth[own])
            _enter(answer, own, found)
    return answer


def recalled(ids: Ids, sets: Ids, size: Int, distance: Float) -> Survivors:
    """Return the answer that a stage's tables hold: the columns of all n rows in order, ids as (n, 16) bytes.

    A survivor that is none of the rows, because it was there earlier, gets a number from n on.
    """
    known, row = np.unique(words(np.concatenate([ids, sets])), return_inverse=True)
    number = np.full(len(known), -1)
    number[row[: len(ids)]] = np.arange(len(ids))
    others = np.flatnonzero(number < 0)
    number[others] = len(ids) + np.arange(len(others))
    own = np.arange(len(ids))
    return Survivors(numbers=own, row=number[row[len(ids) :]], id=sets, size=size, distance=distance)


def _taken(before: Survivors, alive: Mask) -> Survivors:
    """Return the answers of the rows that are alive, as they were."""
    return Survivors(
        numbers=before.numbers[alive],
        row=before.row[alive],
        id=before.id[alive],
        size=before.size[alive],
        distance=before.distance[alive],
    )


def _open(before: Survivors, alive: Mask, smaller: bool) -> Int:
    """Return the rows that are alive, in sets that may change, set by set and ascending."""
    counts, left = (np.bincount(before.row[chosen], minlength=len(alive)) for chosen in (slice(None), alive))
    changed = (counts > 1) if smaller else (left < counts)
    if changed[len(alive) :].any():
        raise ValueError("sets that earlier rows stand for can only be joined again together with those")
    members = np.flatnonzero(alive & changed[before.row])
    return members[np.argsort(before.row[members], kind="stable")]


def _whole(labels: Int, most: int) -> Iterator[slice]:
    """Cut rows that stand set by set into whole sets, at most `most` rows together, or one larger set alone."""
    begins = np.flatnonzero(np.diff(labels, prepend=-1) != 0)
    return windows(np.append(begins, len(labels)), most)


def _rows(read: Read, numbers: Int) -> Half:
    """Read rows that do not ascend."""
    order = np.argsort(numbers)
    found = read(numbers[order])
    rows = np.empty_like(found)
    rows[order] = found
    return rows


def _join(rows: Half, ids: Ids, distance: float, keep: Keep, worth: Float | None) -> Survivors:
    """Return the answer for rows (m, d) that no other row is like."""
    share = Share(ALONE, len(rows), block_rows(len(rows)))
    ledger = Ledger(share, rows.shape[1], distance, Nowhere)
    forest, squares = components(share, rows, distance, ledger)
    return survivors(share, forest.parent, ids, squares, rows, keep=keep, worth=worth)


def _enter(answer: Survivors, numbers: Int, found: Survivors) -> None:
    """Put what was found for some rows in its place."""
    at = np.searchsorted(answer.numbers, numbers)
    answer.row[at], answer.id[at] = numbers[found.row], found.id
    answer.size[at], answer.distance[at] = found.size, found.distance


class Nowhere:
    """A checkpoint that keeps nothing: what takes seconds is done again."""

    def parts(self) -> Iterator[int]:
        """Return none."""
        return iter(())

    def load(self, part: int, suffix: str) -> IO[bytes]:
        """Refuse: nothing was saved."""
        raise KeyError(part)

    def save(self, part: int, write: Callable[[Callable[[str], IO[bytes]]], None]) -> None:
        """Forget it."""

    def add(self, write: Callable[[Callable[[str], IO[bytes]]], None]) -> None:
        """Forget it."""
