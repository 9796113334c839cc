"""Characters: which are Han, how text becomes Simplified Chinese, and what counts as an emoji or special character.

Promise: `strip` never removes a Han character or punctuation, `strip(strip(x)) == strip(x)`, and no text makes any
of these functions fail, lone surrogates included.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from itertools import chain

import opencc

# The ideographic zero, unified and compatibility ideographs, planes 2 and 3. Ranges instead of `unicodedata`, whose
# age depends on the Python version: the same caption must count the same everywhere.
HAN = "\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fffd\U00030000-\U0003fffd"
_han = re.compile(f"[{HAN}]")
_surrogate = re.compile("[\ud800-\udfff]")

# Emoji that are more than one symbol: keycaps, and text that a variation selector turns into a picture (from Unicode's
# emoji-variation-sequences.txt; all other emoji are ornaments, which `_special` removes one by one).
_sequence = re.compile("[0-9#*]\ufe0f?\u20e3|[©®‼⁉™ℹ〰〽㊗㊙]\ufe0f")
_space = re.compile(r"\s+")

# Symbols outside these ranges are ornaments. Inside them they are text: ° © ™ ℃ № ㎡ ㈱ ￥ and radicals.
_TEXTUAL = ((0x00, 0x2FF), (0x2100, 0x214F), (0x2E80, 0x303F), (0x3190, 0x33FF), (0xFF00, 0xFFEF))
# Arrows, technical, box drawing, shapes, dingbats; mathematical operators (2200-22FF) between them are text.
_ORNAMENTS = ((0x2190, 0x21FF), (0x2300, 0x27BF), (0x2900, 0x297F), (0x2B00, 0x2BFF))
# What Unicode calls letters or marks but nobody sees: joiners, fillers, variation selectors.
_INVISIBLE = ((0x34F, 0x34F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x3164, 0x3164))
_SELECTORS = ((0xFE00, 0xFE0F), (0xFFA0, 0xFFA0), (0xFFFC, 0xFFFD), (0xE0000, 0xE0FFF))


def han(text: str) -> int:
    """Return the number of Han characters in the text."""
    return len(_han.findall(text))


def scalar(text: str) -> str:
    """Return the text with each lone surrogate replaced by U+FFFD, so that it can be encoded."""
    return text if text.isascii() else _surrogate.sub("\ufffd", text)


@cache
def _converter() -> opencc.OpenCC:
    return opencc.OpenCC("t2s")


def simplify(text: str) -> str:
    """Return the text in Simplified Chinese (OpenCC t2s, characters and phrases, no regional words)."""
    return text if text.isascii() else str(_converter().convert(scalar(text)))


def strip(text: str) -> tuple[str, int]:
    """Return the text without emoji and special characters, and how many characters were removed.

    White space, which is not counted, collapses to single spaces and goes at both ends.
    """
    if text.isascii() and text.isprintable():
        return _space.sub(" ", text).strip(), 0
    kept = _sequence.sub("", text).translate(_KEEP)
    return _space.sub(" ", kept).strip(), len(text) - len(kept)


def _special(char: str) -> bool:
    """Return whether the character is removed: control, private, unassigned, invisible, or an ornament."""
    code, category = ord(char), unicodedata.category(char)
    if _han.match(char) or char.isspace():
        return False
    if category[0] == "C" or category == "Me" or _within(code, chain(_INVISIBLE, _SELECTORS)):
        return True
    if category[0] == "S" and _within(code, _ORNAMENTS):
        return True
    return category in {"So", "Sk"} and not _within(code, _TEXTUAL)


def _within(code: int, ranges: chain[tuple[int, int]] | tuple[tuple[int, int], ...]) -> bool:
    return any(low <= code <= high for low, high in ranges)


class _Keep(dict[int, int | None]):
    """A table for str.translate that decides each character once, when it is first met."""

    def __missing__(self, code: int) -> int | None:
        self[code] = None if _special(chr(code)) else code
        return self[code]


_KEEP = _Keep()
