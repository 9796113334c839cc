"""Options of the stages that refine the text: words, text."""

from __future__ import annotations

from pydantic import Field

from toolkit.config.section import Section


class Words(Section):
    """Word counts of the corpus, the P of the text entropy."""

    pairs: int = Field(10_000_000, ge=1)
    """About how many pairs are counted, chosen by id; a corpus below that is counted whole. 10M captions hold some
    200M words, which fixes every P that matters, and bound the stage to minutes and its memory to the vocabulary."""


class Text(Section):
    """Text refinement, paper section 3.2: structure, quality, density, safety. null = the step is not run."""

    min_chinese: float | None = Field(0.15, ge=0, le=1)
    """Least zh + yue + wuu probability of lid.176 (NOT STATED in the paper; 0.22 is the lowest of 250 real captions,
    0.06 the highest of the foreign ones)."""

    simplify: bool = True
    """Rewrite to Simplified Chinese (OpenCC t2s)."""

    min_content: int | None = Field(2, ge=0)
    """Fewest Han characters left without stop words (rule NOT STATED in the paper)."""

    stopwords: str = "builtin"
    """A file of stop words, one a line (lines that begin with # are comments), or builtin (stopwords-iso, 794
    words)."""

    min_nouns: int | None = Field(1, ge=0)
    """Fewest nouns (paper: at least one)."""

    tokenizer: str | None = None
    """A local folder with the tokenizer whose unknown tokens are counted (paper: SigLIP2's); null = not run."""

    max_unknown: int = Field(5, ge=0)
    """Most unknown tokens (paper: 5)."""

    min_entropy: float | None = Field(6e-4, ge=0)
    """Least entropy in bits (paper: 6e-4), with P of a word from the stage words."""

    symbols: bool = True
    """Remove emoji and special characters; punctuation stays (paper's own captions keep it)."""

    lexicon: str | None = "builtin"
    """A file of terms, one a line (lines that begin with # are comments), that drop a pair wherever they occur in it;
    builtin (toolkit/text/safety.py says what it holds and how it is matched); null = not run."""
