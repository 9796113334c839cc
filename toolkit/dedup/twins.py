"""Rows with equal bytes: found by a hash over all ranks, then compared byte by byte.

Promise: a row's twin is the first row of the join with the same hash, where their bytes are equal, else the row itself.
So twins are the same for any number of ranks. A row whose hash an earlier, different row has counts as its own first,
which costs time and never changes a set: the join finds its edges like any other's.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from toolkit.dedup.exact import Half, Int, chunk
from toolkit.dedup.share import Share, dealt, rounds, swap

Keys = npt.NDArray[np.uint64]

HASH_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no power of it is zero modulo 2^64


def twins(share: Share, rows: Half) -> Int:
    """Return the number of the first equal row of each row that this rank holds, (m, d) -> (m,)."""
    first = _claims(share, hashes(rows))
    words = rows.view(np.uint16)
    numbers = share.numbers
    claimed = np.flatnonzero(first != numbers)
    most = max(1, chunk(rows.shape[1]) // share.world.size)  # one rank may hold what all ask for
    for part in rounds(share.world, len(claimed), most):
        twin = claimed[part]
        asked, at = np.unique(first[twin], return_inverse=True)
        equal = (words[twin] == share.fetch(words, asked)[at]).all(axis=1)
        first[twin[~equal]] = numbers[twin[~equal]]
    return first


def hashes(rows: Half) -> Keys:
    """Return a polynomial of each row's 16-bit words modulo 2^64, (m, d) -> (m,)."""
    count, dim = rows.shape
    powers = np.multiply.accumulate(np.full(dim, HASH_BASE, dtype=np.uint64))
    keys: Keys = np.empty(count, dtype=np.uint64)
    for start in range(0, count, chunk(dim)):
        part = slice(start, start + chunk(dim))
        keys[part] = np.einsum("ij,j->i", rows[part].view(np.uint16).astype(np.uint64), powers)
    return keys


def _claims(share: Share, keys: Keys) -> Int:
    """Return for each row of this rank the first row of all with its hash: each hash has a rank that knows.

    A rank asks for a hash once, however many of its rows have it.
    """
    world = share.world
    own, first, at = np.unique(keys, return_index=True, return_inverse=True)
    holders = ((own >> np.uint64(33)) % np.uint64(world.size)).astype(np.int64)
    order, sent = dealt(holders, own, world.size)
    _, numbers = dealt(holders, share.numbers[first], world.size)
    seen = swap(world, sent)
    firsts = _firsts(np.concatenate(seen), np.concatenate(swap(world, numbers)))
    answers = swap(world, np.split(firsts, np.cumsum([len(part) for part in seen])[:-1]))
    result = np.empty(len(own), dtype=np.int64)
    result[order] = np.concatenate(answers)
    return result[at]


def _firsts(keys: Keys, numbers: Int) -> Int:
    """Return for each key the smallest number that stands with it."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(keys)])
    firsts = np.empty(len(keys), dtype=np.int64)
    firsts[order] = np.repeat(np.minimum.reduceat(numbers[order], starts), np.diff(starts, append=len(keys)))
    return firsts
