"""Segmentation, tags, stop words, and the counts of the corpus."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.data.pair import pair_id
from toolkit.errors import UserError
from toolkit.text.words import content, count, cut, lexical, lines, nouns, ranked, sampled, stopwords, tag

mixed = st.text(st.sampled_from("漂亮的小狗在草地上奔跑北京大学图片高清 ABC12!|，【】😀の\ud800"), max_size=30)


@given(mixed)
def test_tagged_words_are_the_words_and_the_words_are_the_text(text: str) -> None:
    words = cut(text)
    assert [word for word, _ in tag(text)] == words
    assert "".join(words) == text.replace("\ud800", "\ufffd")


def test_nouns_are_counted_by_tag() -> None:
    assert nouns(tag("漂亮的小狗在草地上奔跑")) == 2
    assert nouns(tag("非常漂亮")) == 0


def test_punctuation_and_white_space_are_no_lexical_words() -> None:
    assert lexical(cut("图片[19]-好价！😀 A")) == ["图片", "19", "好价", "A"]


def test_content_counts_han_characters_outside_stop_words() -> None:
    listed = stopwords("builtin")
    assert content(["的", "关于", "小狗", "A1", "！"], listed) == 2
    assert content(["我们", "的"], listed) == 0


def test_a_list_of_ones_own_is_simplified_and_replaces_the_builtin_one(tmp_path: Path) -> None:
    path = tmp_path / "stop.txt"
    path.write_text("\ufeff圖片\r\n\n  照片 \n", encoding="utf-8")
    assert stopwords(str(path)) == {"图片", "照片"}


@pytest.mark.parametrize("data", [None, b"", b"\n \n", b"# only a note\n", b"\xff\xfe\x00"])
def test_an_unreadable_or_empty_list_is_a_user_error(tmp_path: Path, data: bytes | None) -> None:
    path = tmp_path / "list.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError, match=r"text\.stopwords.*list\.txt"):
        lines(str(path), "text.stopwords")


def test_counts_are_of_simplified_lexical_words_ranked() -> None:
    table = ranked(count(["漂亮的狗，漂亮", "漂亮的貓", "貓 狗"]))
    assert table.to_pylist() == [
        {"word": "漂亮", "count": 3},
        {"word": "狗", "count": 2},
        {"word": "猫", "count": 2},
        {"word": "的", "count": 2},
    ]


def test_no_texts_give_an_empty_table() -> None:
    assert ranked(Counter()).num_rows == 0


@given(st.integers(1, 10**9), st.integers(0, 10**9))
def test_a_larger_sample_holds_the_smaller_one(pairs: int, total: int) -> None:
    ids = [pair_id("u", str(n)) for n in range(64)]
    small, large = sampled(ids, pairs, total), sampled(ids, pairs + 1, total)
    assert all(b or not a for a, b in zip(small, large, strict=True))
    if pairs >= total:
        assert all(small)


def test_about_the_asked_share_is_sampled() -> None:
    ids = [pair_id("u", str(n)) for n in range(4000)]
    assert 900 < sum(sampled(ids, 1000, 4000)) < 1100


def test_comments_are_no_entries_of_a_list(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("# a note\n 图片\n  #照片\nC#\n", encoding="utf-8")
    assert lines(str(path), "text.lexicon") == ["图片", "C#"]
