"""Pairs and columns: names that never change, and a table of columns that holds together."""

from __future__ import annotations

import hashlib
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from toolkit.data.pair import COLUMNS, owner, pair_id, schema

# Lone surrogates are what JSON's \ud800 in a hostile page decodes to.
TEXT = st.text(st.characters(), max_size=8) | st.just("\ud800")
SIDES = st.tuples(TEXT, TEXT)


def test_ids_are_pinned() -> None:
    """These ids stand in published datasets; a change here breaks them all."""
    assert pair_id("http://a.test/1.jpg", " 一只猫\n") == "03bc4c35d476daea29aca15ee5e00b3f"
    assert pair_id("", "") == hashlib.blake2b(b"\0", digest_size=16).hexdigest()


@given(SIDES, SIDES)
def test_two_pairs_share_an_id_only_if_they_are_equal(one: tuple[str, str], two: tuple[str, str]) -> None:
    assume("\0" not in one[0] + two[0])
    assert (pair_id(*one) == pair_id(*two)) == (one == two)


def test_moving_the_border_between_address_and_text_gives_another_id() -> None:
    assert len({pair_id("abc"[:n], "abc"[n:]) for n in range(4)}) == 4


@given(TEXT, TEXT)
def test_an_id_is_32_hex_digits(url: str, text: str) -> None:
    name = pair_id(url, text)
    assert len(name) == 32
    assert set(name) <= set("0123456789abcdef")


def test_a_stage_has_each_column_once_and_with_a_meaning() -> None:
    assert max(Counter((c.stage, c.name) for c in COLUMNS).values()) == 1
    assert all(c.doc and c.stage and c.name.isidentifier() for c in COLUMNS)


def test_a_schema_holds_the_stage_s_columns_in_order() -> None:
    assert schema("words") == pa.schema([("word", pa.string()), ("count", pa.int64())])
    assert schema("export").names[:4] == ["id", "url", "text", "caption"]
    with pytest.raises(KeyError):
        schema("nothing")


def test_a_column_that_several_stages_carry_keeps_its_type() -> None:
    for name in {column.name for column in COLUMNS}:
        assert len({c.type for c in COLUMNS if c.name == name}) == 1, name


def test_later_stages_read_a_column_where_it_was_first_measured() -> None:
    owners = {name: owner(name) for name in schema("export").names}
    assert owners == {
        **dict.fromkeys(["id", "url", "text", "page"], "source"),
        "caption": "text",
        **dict.fromkeys(["mime", "digest", "offset", "bytes"], "fetch"),
        **dict.fromkeys(["width", "height"], "image"),
        "tar": "export",
    }
    with pytest.raises(KeyError):
        owner("nothing")
