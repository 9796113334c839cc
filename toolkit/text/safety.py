"""Text safety: a lexicon of terms, matched by Aho-Corasick on the simplified, NFKC, case-folded text.

`builtin` is the Chinese dictionary of the package glin-profanity (MIT, 110 kB wheel, no dependencies worth naming;
its list goes back to LDNOOBW, CC-BY-4.0): 291 terms of pornography, prostitution and abuse. Two rules make it fit
captions, where a plain search for those terms drops 妈妈的味道 (term 妈的) and 体操比赛 (term 操比):

- A term is left out that has fewer than two Han characters, or whose words are all ordinary: at least 8 in a million
  in jieba's dictionary (成人, 屁股, 妈妈的). Abuse made of everyday words goes with them: the step is about
  pornography.
- A term counts only as words: it begins where a word begins, and ends where a word ends or two or more characters
  before (色情 in 色情电影). A single character after it makes another word (处女 in 处女座, 靠背 in 靠背椅).

A file of one's own replaces the list, and is matched anywhere, all its terms as they stand.
"""

from __future__ import annotations

import json
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from itertools import accumulate

import rjieba
from ahocorasick_rs import AhoCorasick

from toolkit.text.chinese import han, scalar, simplify
from toolkit.text.words import cut, lines

# jieba's dict.txt counts 60.1 million words; 8 in a million lies between 妓女 (446) and 精子 (492).
ORDINARY = 480
MIN_HAN = 2
TAIL = 2


class Lexicon:
    """Terms to be found in texts; with `as_words` only where they are words, see the module's second rule."""

    def __init__(self, terms: Iterable[str], *, as_words: bool = False) -> None:
        self._terms = sorted({fold(term) for term in terms} - {""})
        self._automaton = AhoCorasick(self._terms)
        self._as_words = as_words

    @property
    def terms(self) -> list[str]:
        """Return the terms in the form in which they are matched, sorted."""
        return list(self._terms)

    def find(self, text: str) -> str | None:
        """Return the term that begins first in the text, of those the longest; null where there is none."""
        folded = fold(text)
        hits = self._automaton.find_matches_as_indexes(folded, overlapping=True)
        if hits and self._as_words:
            edges = list(accumulate(map(len, cut(folded)), initial=0))
            hits = [hit for hit in hits if _is_word(hit[1], hit[2], edges)]
        if not hits:
            return None
        term, _, _ = min(hits, key=lambda hit: (hit[1], -hit[2]))
        return self._terms[term]


def _is_word(start: int, end: int, edges: list[int]) -> bool:
    starts = edges[bisect_left(edges, start)] == start
    tail = edges[bisect_left(edges, end)] - end
    return starts and (tail == 0 or tail >= TAIL)


def fold(text: str) -> str:
    """Return the form in which terms and texts are compared: NFKC, simplified, case-folded."""
    return simplify(unicodedata.normalize("NFKC", scalar(text))).casefold()


def lexicon(path: str, option: str = "text.lexicon") -> Lexicon:
    """Return the lexicon of a file, one term a line, or `builtin`; raises UserError for an unreadable file."""
    if path == "builtin":
        return _builtin()
    return Lexicon(lines(path, option))


@cache
def _builtin() -> Lexicon:
    data = files("glin_profanity").joinpath("data/dictionaries/chinese.json").read_text(encoding="utf-8")
    terms = map(fold, json.loads(data)["words"])
    return Lexicon((term for term in terms if _usable(term)), as_words=True)


def _usable(term: str) -> bool:
    return han(term) >= MIN_HAN and not all(map(_ordinary, cut(term)))


def _ordinary(word: str) -> bool:
    """Return whether jieba's dictionary has the word as a frequent one."""
    jieba = _dictionary()
    return bool(jieba.has_word(word)) and int(jieba.suggest_freq(word)) >= ORDINARY


@cache
def _dictionary() -> rjieba.Jieba:
    return rjieba.Jieba()
