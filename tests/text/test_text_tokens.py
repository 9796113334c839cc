"""Unknown tokens of a small tokenizer made here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from toolkit.errors import UserError
from toolkit.text.tokens import Unknowns


def save(folder: Path, kind: str) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="the extra `train` is not installed")
    models, pre = tokenizers.models, tokenizers.pre_tokenizers
    model = {
        "words": lambda: models.WordLevel({"[UNK]": 0, "小": 1, "狗": 2}, unk_token="[UNK]"),
        "unigram": lambda: models.Unigram([("<unk>", -5.0), ("小", -1.0), ("狗", -1.0)], unk_id=0),
        "bpe": lambda: models.BPE({"小": 0, "狗": 1}, []),
    }[kind]()
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre.Split("", "isolated")
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize(("kind", "expected"), [("words", [0, 2, 3]), ("unigram", [0, 2, 3]), ("bpe", [0, 0, 0])])
def test_unknown_tokens_are_counted_uncut_and_unpadded(tmp_path: Path, kind: str, expected: list[int]) -> None:
    save(tmp_path, kind)
    assert Unknowns(str(tmp_path)).count(["小狗", "小猫狗鱼", "猫鱼鸟"]) == expected


def test_a_folder_without_a_tokenizer_is_a_user_error(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="the extra `train` is not installed")
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        Unknowns(str(tmp_path))


def test_a_missing_package_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"danqing-toolkit\[train\]"):
        Unknowns(str(tmp_path))
