"""Corpus-unigram entropy against its definition."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.text.entropy import Frequencies, entropy, frequencies
from toolkit.text.words import ranked

word = st.sampled_from("甲乙丙丁戊己庚")
corpora = st.lists(word, min_size=1, max_size=60)
captions = st.lists(word, max_size=12)


@given(corpora, captions)
def test_it_is_the_definition_over_the_captions_words(corpus: list[str], caption: list[str]) -> None:
    known = frequencies(ranked(Counter(corpus)))
    shares = [max(corpus.count(w), 1) / len(corpus) for w in caption]
    expected = -sum(p * math.log2(p) for p in shares)
    assert entropy(caption, known) == pytest.approx(expected, abs=1e-11)


@given(corpora, captions, st.randoms(use_true_random=False))
def test_the_order_of_words_does_not_change_a_bit(corpus: list[str], caption: list[str], random: object) -> None:
    known = frequencies(ranked(Counter(corpus)))
    other = sorted(caption, reverse=True)
    assert entropy(caption, known) == entropy(other, known)


def test_a_rare_word_says_less_to_the_corpus_than_a_frequent_one() -> None:
    known = Frequencies({"常": 1000, "少": 10}, 100_000)
    assert 0 < entropy(["无"], known) < entropy(["少"], known) < entropy(["常"], known)  # type: ignore[operator]


def test_words_seen_once_need_no_place_in_memory() -> None:
    known = frequencies(ranked(Counter(["甲", "甲", "乙"])))
    assert known.counts == {"甲": 2}
    assert known.total == 3


def test_without_counts_there_is_no_entropy_and_without_words_it_is_zero() -> None:
    assert entropy(["甲"], Frequencies({}, 0)) is None
    assert entropy([], Frequencies({}, 5)) == 0.0
