"""Characters: what is Han, what is simplified, what is stripped."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.text.chinese import han, scalar, simplify, strip

PUNCTUATION = "【】「」『』《》〈〉！？，。、；：…—·|[]()（）{}&$+-_=*/\\#@%^~'\"“”‘’<>￥€℃°㎡№"
anything = st.text(st.characters(exclude_categories=()), max_size=60)
HAN = [(0x3007, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2FFFD), (0x30000, 0x3FFFD)]


@pytest.mark.parametrize(
    ("text", "kept", "removed"),
    [
        ("😀🎉🔥", "", 3),
        ("1\ufe0f\u20e3第一名", "第一名", 3),
        ("全家👨\u200d👩\u200d👧\u200d👦福", "全家福", 7),
        ("中国🇨🇳国旗", "中国国旗", 2),
        ("👍🏽好评 ⭐⭐⭐", "好评", 5),
        ("©2020 和 ©\ufe0f", "©2020 和", 2),
        ("零\u200b宽\ufeff度\u202e", "零宽度", 3),
        ("替\ufffd换\ue000私\x00控", "替换私控", 3),
        ("→ 箭头 ★ 星 ■ 块 ✓ 勾", "箭头 星 块 勾", 4),
        ("㊙️ ㊙", "㊙", 2),
        (" 两端\u3000\t空白\n\n", "两端 空白", 0),
    ],
)
def test_strip_removes_emoji_and_special_characters(text: str, kept: str, removed: int) -> None:
    assert strip(text) == (kept, removed)


def test_strip_keeps_the_punctuation_of_published_captions() -> None:
    text = "【台北】「情绪」！|[19]&()$+ 25℃ 360° 100㎡ ①② №1 ￥99 50% 《局外人》——18+"
    assert strip(text) == (text, 0)


@given(st.text(st.characters(exclude_categories=()) | st.sampled_from("1#\ufe0f\u20e3©\u200d🇨👍🏽★"), max_size=40))
def test_strip_is_idempotent_and_counts_what_it_removes(text: str) -> None:
    kept, removed = strip(text)
    assert strip(kept) == (kept, 0)
    visible = sum(not char.isspace() for char in text)
    assert sum(not char.isspace() for char in kept) == visible - removed


@given(anything)
def test_strip_keeps_every_han_character_in_order(text: str) -> None:
    def only_han(value: str) -> list[str]:
        return [c for c in value if any(low <= ord(c) <= high for low, high in HAN)]

    assert only_han(strip(text)[0]) == only_han(text)
    assert han(text) == len(only_han(text))


@given(st.text(st.sampled_from(PUNCTUATION + "汉字é1"), max_size=40), st.data())
def test_strip_keeps_every_punctuation_mark_between_symbols(text: str, data: st.DataObject) -> None:
    dirt = data.draw(st.lists(st.sampled_from("★😀\u200b\ue000\x07"), min_size=len(text), max_size=len(text)))
    mixed = "".join(a + b for a, b in zip(text, dirt, strict=True))
    assert strip(mixed) == (text, len(dirt))


@given(anything)
def test_stripped_text_holds_no_control_private_or_surrogate_character(text: str) -> None:
    assert all(unicodedata.category(c) not in {"Cc", "Cf", "Co", "Cs"} for c in strip(text)[0])


def test_simplify_rewrites_phrases_and_leaves_the_rest() -> None:
    assert simplify("漢語詞典 乾隆皇帝 頭髮 ABC") == "汉语词典 乾隆皇帝 头发 ABC"


@given(anything)
def test_no_text_makes_simplify_fail(text: str) -> None:
    simplify(text).encode()
    scalar(text).encode()
