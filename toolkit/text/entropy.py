"""Information density: how much a caption's words say, judged by how frequent they are in the whole corpus.

H = - sum over the caption's words of P(w) log2 P(w), with P(w) = count / total of the stage `words` (RealSyn's
definition, which the paper follows). Repeated words count each time; there is no division by length. A word that is
not in the table, because the corpus was sampled, is taken as seen once: no word is more informative for being
unknown than the rarest known one is, and more counts never make a rare word count less.

Promise: the same bytes everywhere: `math.fsum` is exact in any order, and the result is rounded to 1e-12 bits,
because the last bit of log2 differs between C libraries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

DIGITS = 12


@dataclass(frozen=True, slots=True)
class Frequencies:
    """Occurrences of words in the corpus, and of all words together; a word that is missing occurs once."""

    counts: Mapping[str, int]
    total: int
    _bits: dict[int, float] = field(default_factory=dict)

    def bits(self, word: str) -> float:
        """Return -P log2 P of one word."""
        count = self.counts.get(word, 1)
        if count not in self._bits:
            share = count / self.total
            self._bits[count] = -share * math.log2(share)
        return self._bits[count]


def frequencies(table: pa.Table) -> Frequencies:
    """Return the frequencies of a table `words`; words seen once are left out, as they are the default."""
    often = table.filter(pc.greater(table["count"], pa.scalar(1)))
    words: list[Any] = often["word"].to_pylist()
    counts: list[Any] = often["count"].to_pylist()
    return Frequencies(dict(zip(words, counts, strict=True)), pc.sum(table["count"]).as_py() or 0)


def entropy(words: Sequence[str], known: Frequencies) -> float | None:
    """Return H of a caption's words in bits, float64; null where nothing was counted."""
    if known.total == 0:
        return None
    return round(math.fsum(map(known.bits, words)), DIGITS)
