"""The detector tells Chinese captions from others, offline and always alike."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from toolkit.source import language


def test_real_captions_are_told_apart(shared: Path):
    """Measured: at least 0.2244 for every Chinese caption, at most 0.0603 for the others."""
    rows = [json.loads(line) for line in (shared / "crawl" / "truth.jsonl").read_text("utf-8").splitlines()]
    chinese = [row["alt"] for row in rows if row["kind"] in ("clean", "web_pair")]
    others = [row["alt"] for row in rows if row["kind"] in ("english", "japanese", "emoji", "filename")]
    assert language.chinese(chinese).min() >= 0.22 and language.chinese(others).max() < 0.061
    assert {language.detect(text) for text in chinese} == {"zho"}


def test_nothing_is_looked_for_on_the_network(monkeypatch):
    monkeypatch.setattr(socket, "socket", None)
    language._model.cache_clear()
    assert language.detect("一只在草地上奔跑的狗") == "zho"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("the quick brown fox jumps over the lazy dog", "eng"),
        ("富士山の写真と桜の花がとても綺麗です", "jpn"),
        ("le chat est sur la table de la cuisine", "fra"),
        ("一隻貓\n在桌子上面睡覺的照片", "zho"),
        ("", ""),
        (" \n\t", ""),
        ("\x00", ""),
    ],
)
def test_codes_are_iso_639_3(text, code):
    assert language.detect(text) == code


def test_odds_are_probabilities_of_the_right_shape():
    odds = language.chinese(["中文标题", "", "x" * 100_000, "a\nb"])
    assert odds.shape == (4,) and odds.dtype == "float32"
    assert ((odds >= 0) & (odds <= 1)).all() and odds[1] == 0
    assert language.chinese([]).shape == (0,)
