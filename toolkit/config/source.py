"""Options of the stages that choose raw pairs: the input files, source, unique."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from toolkit.config.section import Section


class Input(Section):
    """The raw files of a run."""

    kind: Literal["wat", "warc", "table"]
    """wat and warc: Common Crawl files; table: rows of url and text (parquet, csv, tsv, jsonl)."""

    paths: list[str] = Field(min_length=1)
    """Files or glob patterns, relative to the working directory; ** crosses folders. Input order is sorted order."""

    files_per_shard: int = Field(25, ge=1)
    """Consecutive files in one shard. 25 WAT files give about 100k kept pairs in Chinese (4,000 of 60k a file)."""


class Source(Section):
    """What makes a pair of the crawl a raw pair: language, safety, reliability, length (paper, data sources)."""

    language: str = "zho"
    """ISO 639-3 code that the page's first language must have; "any" keeps all."""

    min_chars: int = Field(5, ge=0)
    """Fewest characters of the text, both ends trimmed (paper: 5-60; the unit is read as characters)."""

    max_chars: int = Field(60, ge=1)
    """Most characters of the text."""

    blacklist: str | None = "builtin"
    """Hosts whose images and pages are dropped, with subdomains: a file, one host a line; builtin; null = not run."""

    safety: str | None = None
    """A file of terms, one a line (lines that begin with # are comments), that drop a pair before any refinement;
    null = not run (the paper's classifier's weights are not public in a loadable format)."""

    rejects: Literal["rows", "counts"] = "rows"
    """Whether rejected pairs keep a row each, or only counts in the mark and one row in a thousand."""
