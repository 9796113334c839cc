"""Words: rjieba's segmentation and tags, stop words, and the stage `words`, which counts the corpus.

Promise: the counts depend on the pairs and `words.pairs` only, and memory is bounded by the vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import rjieba
import stopwordsiso

from toolkit.data.pair import schema
from toolkit.data.stage import Task
from toolkit.data.table import ROW_GROUP, build
from toolkit.errors import UserError
from toolkit.text.chinese import han, scalar, simplify

SAMPLE_BITS = 60


def cut(text: str) -> list[str]:
    """Return the text in words (jieba's dictionary and HMM); joined they are the text again."""
    return list(rjieba.cut(scalar(text)))


def tag(text: str) -> list[tuple[str, str]]:
    """Return the same words, each with jieba's part-of-speech tag."""
    return list(rjieba.tag(scalar(text)))


def lexical(words: Iterable[str]) -> list[str]:
    """Return the words that hold a letter, digit or character; punctuation and white space say nothing."""
    return [word for word in words if any(map(str.isalnum, word))]


def nouns(tagged: Iterable[tuple[str, str]]) -> int:
    """Return the number of nouns: tags n, nr, ns, nt, nz, ng ... of the ICTCLAS set that jieba uses."""
    return sum(tag.startswith("n") for _, tag in tagged)


def content(words: Iterable[str], stopwords: frozenset[str]) -> int:
    """Return the number of Han characters in words that are no stop words."""
    return sum(han(word) for word in words if word not in stopwords)


def stopwords(path: str) -> frozenset[str]:
    """Return the stop words of a file, one a line, or of `builtin`.

    builtin is the Chinese list of stopwords-iso, 794 words, from the package stopwordsiso (MIT, 75 kB, all languages).
    """
    if path == "builtin":
        return frozenset(stopwordsiso.stopwords("zh"))
    return frozenset(simplify(word) for word in lines(path, "text.stopwords"))


def lines(path: str, option: str) -> list[str]:
    """Return the entries of a list: its lines, trimmed, less empty ones and comments (lines that begin with #).

    Raises UserError where there is none.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{option}: the list {path} can not be read ({error}). Expected a UTF-8 text file with one term a line; "
            "correct the path, or give `builtin`."
        ) from error
    trimmed = map(str.strip, text.splitlines())
    found = [line for line in trimmed if line and not line.startswith("#")]
    if not found:
        raise UserError(f"{option}: the list {path} is empty. Expected one term a line; fill it, or give `builtin`.")
    return found


def sampled(ids: Sequence[str], pairs: int, total: int) -> list[bool]:
    """Say for each id (hex) whether it is counted, so that about `pairs` of `total` are; the ids decide alone."""
    if pairs >= total:
        return [True] * len(ids)
    limit = (pairs << SAMPLE_BITS) // total
    return [int(name[: SAMPLE_BITS // 4], 16) < limit for name in ids]


def count(texts: Iterable[str]) -> Counter[str]:
    """Return how often each lexical word occurs in the simplified texts."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(lexical(cut(simplify(text))))
    return counts


def ranked(counts: Counter[str]) -> pa.Table:
    """Return the table `words`: most frequent first, equal counts in code point order."""
    order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return build(schema("words"), {"word": [word for word, _ in order], "count": [n for _, n in order]})


def run(task: Task) -> None:
    """Count the words of about `words.pairs` pairs over all shards; one row for each word."""
    total = task.total()
    counts: Counter[str] = Counter()
    for shard in task.shards():
        rows = task.rows("id", "text", shard=shard)
        for start in range(0, rows.num_rows, ROW_GROUP):
            counts.update(_count_sample(rows.slice(start, ROW_GROUP), task.config.words.pairs, total))
            task.advance(min(ROW_GROUP, rows.num_rows - start))
    task.write(ranked(counts))


def _count_sample(rows: pa.Table, pairs: int, total: int) -> Counter[str]:
    ids: list[Any] = rows["id"].to_pylist()
    texts: list[Any] = rows["text"].to_pylist()
    return count(text or "" for text, keep in zip(texts, sampled(ids, pairs, total), strict=True) if keep)
