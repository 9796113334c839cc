"""The lexicon against a plain search, and the two rules of the built-in list."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.errors import UserError
from toolkit.text.chinese import han
from toolkit.text.safety import Lexicon, fold, lexicon
from toolkit.text.words import cut

term = st.text(st.sampled_from("甲乙丙Ab"), min_size=1, max_size=3)


def plain_search(terms: list[str], text: str) -> str | None:
    hits = [(text.find(t), -len(t), t) for t in {fold(t) for t in terms} if t in text]
    return min(hits)[2] if hits else None


@given(st.lists(term, max_size=6), st.text(st.sampled_from("甲乙丙Ab😀 "), max_size=20))
def test_it_finds_what_a_plain_search_finds(terms: list[str], text: str) -> None:
    assert Lexicon(terms).find(text) == plain_search(terms, fold(text))


@given(st.lists(st.sampled_from(["草地", "草", "地上", "小狗", "狗在", "奔跑"]), min_size=1, max_size=4), st.data())
def test_as_words_it_is_a_plain_search_between_the_edges_of_words(terms: list[str], data: st.DataObject) -> None:
    text = "".join(data.draw(st.lists(st.sampled_from(["小狗", "在", "草地", "上", "奔跑", "的"]), max_size=8)))
    edges = [0]
    for word in cut(text):
        edges.append(edges[-1] + len(word))
    hits = [
        (start, -len(t), t)
        for t in set(terms)
        for start in edges
        if text.startswith(t, start) and min(e for e in edges if e >= start + len(t)) - start - len(t) != 1
    ]
    assert Lexicon(terms, as_words=True).find(text) == (min(hits)[2] if hits else None)


@pytest.mark.parametrize(
    "text", ["情色電影", "ＳＥＸ情色", "三級片在线观看", "色情电影在线", "卖淫嫖娼被抓", "巨乳美女写真"]
)
def test_the_builtin_list_finds_pornography(text: str) -> None:
    assert lexicon("builtin").find(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        "妈妈的味道",
        "新娘的婚纱",
        "体操比赛",
        "面包皮",
        "水乳交融",
        "处女座女生性格",
        "可调节靠背椅",
        "成人电子票",
        "你全家福",
    ],
)
def test_the_builtin_list_spares_everyday_captions_that_hold_a_term_inside_words(text: str) -> None:
    assert lexicon("builtin").find(text) is None


def test_the_builtin_list_follows_its_stated_rules() -> None:
    terms = lexicon("builtin").terms
    assert len(terms) > 150
    assert all(han(t) >= 2 and fold(t) == t for t in terms)
    assert not {"成人", "屁股", "妈的", "乳", "性"} & set(terms)


def test_a_file_of_ones_own_is_matched_anywhere_folded(tmp_path: Path) -> None:
    path = tmp_path / "terms.txt"
    path.write_text("體操比\nCasino\n", encoding="utf-8")
    own = lexicon(str(path))
    assert own.find("全国体操比赛") == "体操比"
    assert own.find("ＣＡＳＩＮＯ888") == "casino"
    assert own.find("色情") is None


def test_a_missing_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"text\.lexicon.*none\.txt"):
        lexicon(str(tmp_path / "none.txt"))


@given(st.text(st.characters(exclude_categories=()), max_size=30))
def test_no_text_makes_the_search_fail(text: str) -> None:
    lexicon("builtin").find(text)
