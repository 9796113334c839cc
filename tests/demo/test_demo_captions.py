"""The demo's captions: natural lengths, nouns, and texts that the funnel must drop for one reason only."""

from __future__ import annotations

import pytest

from toolkit.demo import captions
from toolkit.demo.dice import Dice
from toolkit.demo.scenes import PAINTS, PLACES, SUBJECTS, TIMES, scene

WRITERS = [captions.chinese, captions.traditional, captions.decorated]


@pytest.mark.parametrize("write", WRITERS)
def test_captions_to_be_kept_have_5_to_60_characters(write: object) -> None:
    lengths = [len(write(scene(1, n), Dice(1, n)).strip()) for n in range(600)]  # type: ignore[operator]
    assert min(lengths) >= 5
    assert max(lengths) <= 60
    assert 20 < sum(lengths) / len(lengths) < 35


def test_captions_describe_their_scene() -> None:
    for number in range(100):
        shown = scene(1, number)
        text = captions.chinese(shown, Dice(number))
        assert shown.subject.name.zh in text
        assert shown.paint.name.zh in text


def test_long_and_short_captions_are_outside_and_foreign_ones_inside_the_limits() -> None:
    for number in range(300):
        shown, dice = scene(1, number), Dice(number)
        assert len(captions.long(shown, dice)) > 60
        assert 1 <= len(captions.short(shown, dice).strip()) < 5
        assert 5 <= len(captions.english(shown, dice)) <= 60
        assert 5 <= len(captions.japanese(shown, dice)) <= 60
        assert 5 <= len(captions.filename(dice)) <= 60
    planted = captions.EMOJI + captions.STOPWORDS + captions.NOUNLESS + captions.UNSAFE
    planted += [captions.rare(n) for n in range(len(captions.RARE))]
    assert all(5 <= len(text) <= 60 for text in planted)


def test_opencc_turns_traditional_captions_back() -> None:
    opencc = pytest.importorskip("opencc")
    back = opencc.OpenCC("t2s")
    for number in range(200):
        simplified = captions.chinese(scene(1, number), Dice(number))
        changed = captions.traditional(scene(1, number), Dice(number))
        assert back.convert(changed) == simplified
    names = [s.name.zh for s in SUBJECTS] + [p.name.zh for p in (*PAINTS, *PLACES)] + [t[0].zh for t in TIMES]
    assert len(set(names)) == len(names)


def test_every_planted_text_has_one_fault() -> None:
    words = pytest.importorskip("toolkit.text.words")
    safety = pytest.importorskip("toolkit.text.safety")
    stopwords, lexicon = words.stopwords("builtin"), safety.lexicon("builtin")

    def nouns_and_content(text: str) -> tuple[int, int]:
        tagged = words.tag(text)
        return words.nouns(tagged), words.content((word for word, _ in tagged), stopwords)

    assert all(nouns_and_content(text)[1] < 2 for text in captions.STOPWORDS)
    for text in captions.NOUNLESS:
        nouns, content = nouns_and_content(text)
        assert nouns == 0
        assert content >= 2
    for text in captions.UNSAFE + [captions.rare(n) for n in range(len(captions.RARE))]:
        nouns, content = nouns_and_content(text)
        assert nouns >= 1
        assert content >= 2
    assert all(lexicon.find(text) for text in captions.UNSAFE)
    assert all(len(words.lexical(words.cut(captions.rare(n)))) == 1 for n in range(len(captions.RARE)))
    kept = [captions.chinese(scene(1, n), Dice(n)) for n in range(300)]
    assert not any(lexicon.find(text) for text in kept)
    assert all(nouns_and_content(text) >= (1, 2) for text in kept)
