"""Chance that is the same on every machine: numbers from SHAKE-256 of a name, no library's own random stream.

Promise: the same key gives the same numbers in every version of Python and numpy, and any key can be asked for
without asking for those before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import MutableSequence, Sequence
from typing import TypeVar

T = TypeVar("T")
_WORD = 4  # bytes a number
_BUFFER = 64  # numbers a refill


def stream(size: int, *key: object) -> bytes:
    """Return `size` bytes that depend on the key alone."""
    return hashlib.shake_256("/".join(map(str, key)).encode()).digest(size)


def word(length: int, *key: object) -> str:
    """Return `length` hex digits that depend on the key alone."""
    return stream((length + 1) // 2, *key).hex()[:length]


class Dice:
    """A sequence of choices, named by its key."""

    def __init__(self, *key: object) -> None:
        self._key = key
        self._data = b""
        self._at = 0
        self._refills = 0

    def below(self, limit: int) -> int:
        """Return an integer from 0 to limit - 1 (the bias of 2^-32 * limit does not matter here)."""
        if self._at == len(self._data):
            self._data = stream(_WORD * _BUFFER, *self._key, self._refills)
            self._at = 0
            self._refills += 1
        number = int.from_bytes(self._data[self._at : self._at + _WORD], "little")
        self._at += _WORD
        return number * limit >> 8 * _WORD

    def between(self, low: int, high: int) -> int:
        """Return an integer from low to high, both ends included."""
        return low + self.below(high - low + 1)

    def pick(self, choices: Sequence[T]) -> T:
        """Return one of the choices."""
        return choices[self.below(len(choices))]

    def shuffle(self, items: MutableSequence[T]) -> None:
        """Put the items in another order (Fisher and Yates)."""
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]
