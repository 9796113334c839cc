"""Why a step dropped a pair, in words: the value that was measured, and the threshold that it was held against.

One line a step, as in the recipe. `row` is the pair's row in the table of the step's stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

from toolkit.config import Config
from toolkit.data.pair import COLUMNS
from toolkit.image.fault import FAULTS

Row = Mapping[str, Any]
End: TypeAlias = Literal["lowest", "highest"]


class Reason(NamedTuple):
    """The measured column that a step looks at, None where it is no single one, and what it says of one row."""

    column: str | None
    words: Callable[[Row, Config], str]


def reason(step: str, row: Row, config: Config) -> str:
    """Return what decided, e.g. "sharpness 14.8, at least 1000"."""
    return REASONS[step].words(row, config)


def measure(stage: str, step: str) -> str:
    """Return the column of the stage's table that the step looks at, with unit and meaning; empty where none."""
    name = REASONS[step].column
    if name is None:
        return ""
    column = next(c for c in COLUMNS if (c.stage, c.name) == (stage, name))
    return f"{name}{f' ({column.unit})' if column.unit else ''}: {column.doc}"


def number(value: float | None) -> str:
    """Return a measured value in as many digits as tell it from its threshold."""
    return "not measured" if value is None else f"{value:.6g}"


def _value(column: str, threshold: Callable[[Config], str]) -> Reason:
    return Reason(column, lambda row, config: f"{column} {number(row[column])}, {threshold(config)}")


def _said(words: str) -> Reason:
    return Reason(None, lambda row, config: words)


def _fetch(words: Callable[[Row, Config], str]) -> Reason:
    """Say also where redirects led, for that is what failed."""
    return Reason(None, lambda row, config: f"{words(row, config)}{_led(row)}")


def _led(row: Row) -> str:
    return f", after {row['redirects']} redirects at {row['final_url']}" if row["redirects"] else ""


def _failed(words: str) -> Reason:
    return _fetch(lambda row, config: words)


def _status(row: Row, config: Config) -> str:
    return f"HTTP status {row['status']}"


def _language(row: Row, config: Config) -> str:
    return f"language {row['language'] or 'unknown'} (by {row['language_by']}), must be {config.source.language}"


def _mime(row: Row, config: Config) -> str:
    return f"Content-Type {row['mime'] or 'missing'}, status {row['status']}; the content is no image"


def _shape(row: Row, config: Config) -> str:
    limits = []
    if config.image.max_aspect is not None:
        limits.append(f"sides at most {config.image.max_aspect:g} : 1")
    if config.image.min_side is not None:
        limits.append(f"the shorter one above {config.image.min_side}")
    return f"{row['width']} x {row['height']} pixels, {', '.join(limits)}"


def _set(row: Row, config: Config) -> str:
    return (
        f"in a set of {row['size']:,}, linked by distances below {config.dedup.distance:g}; "
        f"{number(row['distance'])} from its centroid"
    )


def best(step: str, config: Config) -> tuple[str, End] | None:
    """Return the column by which a step chose who stays of a set, and which value wins; None where it went by none."""
    by_column = {"dedup.batch": not config.dedup.by_align, "merge.global": True}.get(step, False)
    if not (config.dedup.best and by_column):
        return None
    name = config.dedup.best.removeprefix("-")
    return name, "highest" if name == config.dedup.best else "lowest"


def _chosen(step: str) -> Reason:
    """Say also by which column the one that stays was chosen."""

    def words(row: Row, config: Config) -> str:
        by = best(step, config)
        return _set(row, config) + (f"; {row['set']} has the {by[1]} {by[0]} and stays" if by else "")

    return Reason("distance", words)


def _known(row: Row, config: Config) -> str:
    return f"{_set(row, config)}; an earlier run (dedup.earlier) has the one that stays, {row['set']}"


def _band(row: Row, config: Config) -> str:
    align = config.align
    if align is None:
        return ""
    name, (low, high) = ("l2", align.l2) if align.l2 else ("cosine", align.cosine or (0.0, 0.0))
    return f"{name} {number(row[name])}, from {low:g} to {high:g}"


def _first(row: Row, config: Config) -> str:
    return f"the same pair stands in shard {row['first_shard']}, row {row['first_row']}"


REASONS: Mapping[str, Reason] = {
    "source.url": _said("no address that can be asked for"),
    "source.language": Reason("language", _language),
    "source.safety": _said("a term of the list source.safety is in the text"),
    "source.blacklist": Reason(None, lambda row, config: f"its host or that of its page is listed: {row['page']}"),
    "source.length": _value("chars", lambda c: f"from {c.source.min_chars} to {c.source.max_chars}"),
    "source.duplicate": Reason(None, _first),
    "text.language": _value("chinese", lambda c: f"at least {c.text.min_chinese:g}"),
    "text.stopwords": _value("content", lambda c: f"at least {c.text.min_content}"),
    "text.noun": _value("nouns", lambda c: f"at least {c.text.min_nouns}"),
    "text.unknown": _value("unknown", lambda c: f"at most {c.text.max_unknown}"),
    "text.entropy": _value("text_entropy", lambda c: f"at least {c.text.min_entropy:g}"),
    "text.safety": Reason("term", lambda row, config: f"the term {row['term']} of the lexicon is in the text"),
    "fetch.bad_url": _failed("no address that can be asked for"),
    "fetch.dns": _failed("the host has no address"),
    "fetch.connect": _failed("no connection"),
    "fetch.tls": _failed("no trusted TLS connection"),
    "fetch.timeout": _fetch(lambda row, config: f"not there after {config.fetch.timeout_s:g} s"),
    "fetch.http_4xx": _fetch(_status),
    "fetch.http_5xx": _fetch(_status),
    "fetch.redirects": _fetch(lambda row, config: f"more than {config.fetch.redirects}, or one that leads nowhere"),
    "fetch.too_large": _fetch(lambda row, config: f"more than {config.fetch.max_mb:g} MB"),
    "fetch.incomplete": _failed("the answer ended early or was broken"),
    "fetch.not_image": _fetch(_mime),
    "fetch.opt_out": _failed("X-Robots-Tag refuses the use (fetch.opt_out)"),
    "fetch.robots": _failed("robots.txt of the host forbids it, or could not be read"),
    "fetch.blocked_address": _failed("the host leads to an address that is not public"),
    "fetch.host_down": _failed("given up: the host had failed too often"),
    "image.decode": Reason("fault", lambda row, config: FAULTS.get(row["fault"], "unknown fault")),
    "image.shape": Reason(None, _shape),
    "image.texture": _value("texture", lambda c: f"at least {c.image.min_texture:g}"),
    "image.blur": _value("sharpness", lambda c: f"at least {c.image.min_sharpness:g}"),
    "image.entropy": _value("image_entropy", lambda c: f"at least {c.image.min_entropy:g}"),
    "embed.invalid": _value("norm", lambda c: "must be above 0 and finite"),
    "dedup.batch": _chosen("dedup.batch"),
    "align.band": Reason("cosine", _band),
    "merge.earlier": Reason("distance", _known),
    "merge.global": _chosen("merge.global"),
}
