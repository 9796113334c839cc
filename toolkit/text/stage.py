"""The stage `text`: measures each caption once and refines it; paper section 3.2.

Promise: no measured column depends on a threshold; each is a function of the pair's text, the lists that the
configuration names, and the counts of the stage `words`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from toolkit.config.text import Text
from toolkit.data.pair import schema
from toolkit.data.stage import Task
from toolkit.data.table import ROW_GROUP, build
from toolkit.data.verdict import Reject, values, verdict
from toolkit.source.language import chinese
from toolkit.text import safety, words
from toolkit.text.chinese import scalar, simplify, strip
from toolkit.text.entropy import Frequencies, entropy, frequencies
from toolkit.text.tokens import Unknowns

# The rows of the funnel; simplified and symbols rewrite and drop nothing.
FUNNEL = (
    "text.language",
    "text.simplified",
    "text.stopwords",
    "text.noun",
    "text.unknown",
    "text.entropy",
    "text.symbols",
    "text.safety",
)
INT16_MAX = 32767


def _below(column: str, option: str) -> Reject:
    def reject(table: pa.Table, section: Text) -> npt.NDArray[np.bool_]:
        least = getattr(section, option)
        return values(table, column) < (-np.inf if least is None else least)

    return reject


def _unknown(table: pa.Table, section: Text) -> npt.NDArray[np.bool_]:
    return values(table, "unknown") > section.max_unknown


def _unsafe(table: pa.Table, section: Text) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = pc.is_valid(table["term"]).to_numpy(zero_copy_only=False)
    return found & (section.lexicon is not None)


STEPS: Mapping[str, Reject] = {
    "text.language": _below("chinese", "min_chinese"),
    "text.stopwords": _below("content", "min_content"),
    "text.noun": _below("nouns", "min_nouns"),
    "text.unknown": _unknown,
    "text.entropy": _below("text_entropy", "min_entropy"),
    "text.safety": _unsafe,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Tools:
    """What the captions are measured with, loaded once for a task."""

    stopwords: frozenset[str]
    frequencies: Frequencies
    unknowns: Unknowns | None
    lexicon: safety.Lexicon | None


def tools(section: Text, counts: pa.Table) -> Tools:
    """Load the lists that the section names; `counts` is the table of the stage words."""
    return Tools(
        stopwords=words.stopwords(section.stopwords),
        frequencies=frequencies(counts),
        unknowns=None if section.tokenizer is None else Unknowns(section.tokenizer),
        lexicon=None if section.lexicon is None else safety.lexicon(section.lexicon),
    )


def measure(texts: Sequence[str | None], section: Text, kit: Tools) -> dict[str, Any]:
    """Return the measured columns of the texts, a list or array (n,) each; the section says how they are rewritten.

    The language is judged on the text as found (as in the paper: OpenCC brings Japanese nearer to Chinese),
    everything else on the simplified text, safety on the simplified text without symbols.
    """
    found = [scalar(text or "") for text in texts]
    simple = [simplify(text) for text in found]
    tagged = [words.tag(text) for text in simple]
    plain = [strip(text) for text in simple]
    return {
        "caption": _captions(found, simple, section),
        "chinese": chinese(found),
        "simplified": [old != new for old, new in zip(found, simple, strict=True)],
        "content": _int16(words.content((w for w, _ in pairs), kit.stopwords) for pairs in tagged),
        "nouns": _int16(map(words.nouns, tagged)),
        "unknown": [None] * len(found) if kit.unknowns is None else _int16(kit.unknowns.count(simple)),
        "text_entropy": [entropy(words.lexical(w for w, _ in pairs), kit.frequencies) for pairs in tagged],
        "symbols": _int16(removed for _, removed in plain),
        "term": [None if kit.lexicon is None else kit.lexicon.find(text) for text, _ in plain],
    }


def _captions(found: Sequence[str], simple: Sequence[str], section: Text) -> list[str]:
    rewrite: Callable[[str], str] = (lambda text: strip(text)[0]) if section.symbols else str.strip
    return list(map(rewrite, simple if section.simplify else found))


def _int16(counts: Any) -> list[int]:
    return [min(count, INT16_MAX) for count in counts]


def judge(ids: pa.ChunkedArray[Any], columns: Mapping[str, Any], section: Text) -> pa.Table:
    """Return the stage's table: the measured columns with the verdict."""
    measured = pa.table({name: pa.array(columns[name], schema("text").field(name).type) for name in columns})
    return build(schema("text"), {"id": ids, **columns, "dropped": verdict(STEPS, measured, section)})


def run(task: Task) -> None:
    """Measure one shard's captions, in batches of 10,000."""
    section = task.config.text
    kit = tools(section, task.table("words"))
    task.write(_tables(task, task.rows("id", "text"), section, kit))


def _tables(task: Task, rows: pa.Table, section: Text, kit: Tools) -> Iterator[pa.Table]:
    for start in range(0, rows.num_rows, ROW_GROUP):
        batch = rows.slice(start, ROW_GROUP)
        table = judge(batch["id"], measure(batch["text"].to_pylist(), section, kit), section)
        for step, changed in rewritten(table, section).items():
            task.count(step, changed)
        task.advance(table.num_rows)
        yield table


def rewritten(table: pa.Table, section: Text) -> dict[str, int]:
    """Return how many rows each rewriting step changed, among those that no earlier step dropped."""
    simplified = values(table, "simplified") > 0
    symbols = values(table, "symbols") > 0
    return {
        "text.simplified": int((simplified & _reached(table, "text.simplified")).sum()) * section.simplify,
        "text.symbols": int((symbols & _reached(table, "text.symbols")).sum()) * section.symbols,
    }


def _reached(table: pa.Table, step: str) -> npt.NDArray[np.bool_]:
    earlier = pa.array(FUNNEL[: FUNNEL.index(step)], pa.string())
    dropped = pc.is_in(table["dropped"], value_set=earlier)
    return ~np.asarray(dropped.to_numpy(zero_copy_only=False))
