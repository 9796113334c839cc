"""Unknown tokens of a local tokenizer: characters that the model to be trained can not read.

Needs the package `tokenizers` (extra `train`), imported only where a folder is configured.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Unknowns:
    """Counts unknown tokens with the `tokenizer.json` of a Hugging Face folder, unpadded and uncut."""

    def __init__(self, folder: str) -> None:
        file = Path(folder) / "tokenizer.json"
        self._tokenizer = _load(file)
        self._unknown = _unknown_id(self._tokenizer, file)

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return for each text its unknown tokens; 0 for all where the tokenizer has no such token."""
        if self._unknown is None:
            return [0] * len(texts)
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [encoding.ids.count(self._unknown) for encoding in encoded]


def _load(file: Path) -> Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise UserError(
            "text.tokenizer is set, but the package `tokenizers` is not installed. Install it with "
            "`pip install danqing-toolkit[train]`, or set text.tokenizer to null."
        ) from error
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises plain Exception for a missing and for a broken file
        raise UserError(
            f"text.tokenizer: {file} can not be read ({error}). Expected a local folder with a Hugging Face "
            "tokenizer.json; correct the path, or set text.tokenizer to null."
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _unknown_id(tokenizer: Tokenizer, file: Path) -> int | None:
    model: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["model"]
    if model.get("unk_id") is not None:  # Unigram names it by its row
        return int(model["unk_id"])
    token = model.get("unk_token")
    return None if token is None else tokenizer.token_to_id(str(token))
