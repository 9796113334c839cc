"""A pair is one image URL with one text. This page names it, and names every column that a stage measures.

Promise: the id of a pair never changes, whatever later steps do to its text.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pyarrow as pa

ID_BYTES = 16


def pair_id(url: str, text: str) -> str:
    """Return the 32 hex digits that name a pair: BLAKE2b-128 over url, NUL, text.

    The separator keeps ("ab", "c") and ("a", "bc") apart, which md5(alt + url) of cc2dataset does not.
    Lone surrogates, which hostile pages produce, are kept by "surrogatepass". Two pairs of one id differ only
    where NUL stands in a url.
    """
    data = url.encode("utf-8", "surrogatepass") + b"\0" + text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=ID_BYTES).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One measured column: its stage, its arrow type, its unit ("" where it has none), and its meaning."""

    stage: str
    name: str
    type: pa.DataType
    unit: str
    doc: str


def _columns(stage: str, *rows: tuple[str, pa.DataType, str, str]) -> list[Column]:
    return [Column(stage=stage, name=name, type=kind, unit=unit, doc=doc) for name, kind, unit, doc in rows]


_S, _I16, _I32, _I64 = pa.string(), pa.int16(), pa.int32(), pa.int64()
_F32, _F64, _B = pa.float32(), pa.float64(), pa.bool_()

_ID = ("id", _S, "hex", "the pair: BLAKE2b-128 of url, NUL, text; 32 hex digits")
_DROPPED = ("dropped", _S, "", "null, or the first step in recipe order that rejects the pair")

# Every column of every table, by stage, in the order in which it is written. docs/formats.md is made from it.
COLUMNS: list[Column] = [
    *_columns(
        "source",
        _ID,
        ("url", _S, "", "the image's address: urljoin(base, src), otherwise unchanged"),
        ("text", _S, "", "the alt attribute after entity decoding, neither trimmed nor collapsed"),
        ("page", _S, "", "the address of the page"),
        ("language", _S, "", "the page's first language, ISO 639-3 where known; empty where not"),
        ("language_by", _S, "", "who said so: cld2 (Common Crawl's record), detector (ours), none"),
        ("chars", _I32, "characters", "length of the text, white space at both ends apart"),
        ("file", _I32, "", "line of the input file in inputs.jsonl, from 0"),
        ("record", _I64, "bytes", "offset of the page's record in the input file; the row number for tables"),
        _DROPPED,
    ),
    *_columns(
        "unique",
        _ID,
        ("shard", _I32, "", "shard of the dropped row"),
        ("row", _I32, "", "row of the dropped pair in its shard's source table"),
        ("first_shard", _I32, "", "shard of the first pair with this id"),
        ("first_row", _I32, "", "row of the first pair with this id"),
        _DROPPED,
    ),
    *_columns(
        "words",
        ("word", _S, "", "a word of rjieba's segmentation of the simplified text"),
        ("count", _I64, "occurrences", "how often it occurs in the counted captions"),
    ),
    *_columns(
        "text",
        _ID,
        ("caption", _S, "", "the refined text: simplified, emoji and special characters removed, trimmed"),
        ("chinese", _F32, "probability", "lid.176's zh + yue + wuu on the words joined by spaces"),
        ("simplified", _B, "", "whether OpenCC changed the text"),
        ("content", _I16, "characters", "Han characters left without stop words"),
        ("nouns", _I16, "words", "words that rjieba tags as nouns"),
        ("unknown", _I16, "tokens", "unknown tokens of the configured tokenizer; null without one"),
        ("text_entropy", _F64, "bits", "-sum P(w) log2 P(w) over the words, P from the stage words"),
        ("symbols", _I16, "characters", "emoji and special characters removed"),
        ("term", _S, "", "the first term of the safety lexicon found in the text, or null"),
        _DROPPED,
    ),
    *_columns(
        "hosts",
        (
            "host",
            _S,
            "",
            "an origin of a pair that passed text: scheme, host, and port where that is not the scheme's own",
        ),
        (
            "addresses",
            pa.list_(_S),
            "",
            "its public addresses, sorted; empty where none, and where fetch.resolve leads elsewhere",
        ),
        ("robots", _S, "", "the rules that its robots.txt gives our agent; null where all is allowed"),
        ("fault", _S, "", "null, or why nothing may be fetched: dns, blocked_address, connect, tls, timeout, robots"),
    ),
    *_columns(
        "fetch",
        _ID,
        ("status", _I16, "", "HTTP status of the last answer; null where there was none"),
        ("mime", _S, "", "Content-Type of the last answer, without parameters"),
        ("final_url", _S, "", "address that gave the last answer, after redirects; null where there was none"),
        ("redirects", _I16, "", "redirects followed"),
        ("offset", _I64, "bytes", "where the image's bytes begin in the shard's tar; null where none"),
        ("bytes", _I64, "bytes", "size of the image file; null where none"),
        ("digest", _S, "hex", "BLAKE2b-128 of the image file; null where none"),
        _DROPPED,
    ),
    *_columns(
        "image",
        _ID,
        ("format", _S, "", "JPEG, PNG, WEBP, GIF; null where the header could not be read"),
        ("width", _I32, "pixels", "width"),
        ("height", _I32, "pixels", "height"),
        ("texture", _F32, "grey levels", "standard deviation of the grey image"),
        ("sharpness", _F64, "", "variance of the Laplacian, ksize=3, of the grey image at native size"),
        ("image_entropy", _F32, "bits", "Pillow's Image.entropy() of the RGB image (one 768-bin histogram)"),
        ("fault", _S, "", "why the image could not be decoded; null where it could"),
        _DROPPED,
    ),
    *_columns(
        "embed",
        _ID,
        ("norm", _F32, "", "length of the stored float16 row"),
        _DROPPED,
    ),
    *_columns(
        "dedup",
        _ID,
        ("set", _S, "hex", "id of the survivor of the pair's set of near-duplicates"),
        ("size", _I64, "pairs", "size of the set"),
        ("distance", _F64, "", "cosine distance to the centroid of the set, in steps of 1e-9"),
        _DROPPED,
    ),
    *_columns(
        "align",
        _ID,
        ("cosine", _F64, "", "cosine of image and text features"),
        ("l2", _F64, "", "their distance: sqrt(2 - 2 cosine)"),
        _DROPPED,
    ),
    *_columns(
        "merge",
        _ID,
        ("set", _S, "hex", "id of the survivor of the pair's set of near-duplicates over all batches"),
        ("size", _I64, "pairs", "size of the set"),
        ("distance", _F64, "", "cosine distance to the centroid of the set, in steps of 1e-9"),
        _DROPPED,
    ),
    *_columns(
        "export",
        _ID,
        ("url", _S, "", "the image's address"),
        ("text", _S, "", "the text as found"),
        ("caption", _S, "", "the refined text"),
        ("page", _S, "", "the address of the page"),
        ("width", _I32, "pixels", "width"),
        ("height", _I32, "pixels", "height"),
        ("mime", _S, "", "Content-Type that the server named"),
        ("digest", _S, "hex", "BLAKE2b-128 of the image file"),
        ("tar", _S, "", "the tar that holds the image, beside this table"),
        ("offset", _I64, "bytes", "where the image's bytes begin in that tar"),
        ("bytes", _I64, "bytes", "size of the image file"),
    ),
]


def schema(stage: str) -> pa.Schema:
    """Return the arrow schema of a stage's tables; raises KeyError for a stage without one."""
    fields = [pa.field(c.name, c.type) for c in COLUMNS if c.stage == stage]
    if not fields:
        raise KeyError(stage)
    return pa.schema(fields)


def owner(name: str) -> str:
    """Return the first stage that writes the column, which is the one that later stages read."""
    for column in COLUMNS:
        if column.name == name:
            return column.stage
    raise KeyError(name)
