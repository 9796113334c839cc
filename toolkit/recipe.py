"""The pipeline in order, and the paper's funnel that it is held against.

A stage is one line here and one folder in toolkit/; nothing is imported until a stage runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.config import Config
from toolkit.data.pair import owner
from toolkit.data.stage import Kind, Stage

FETCH_REASONS = (
    *("bad_url", "dns", "connect", "tls", "timeout", "http_4xx", "http_5xx", "redirects", "too_large", "incomplete"),
    *("not_image", "opt_out", "robots", "blocked_address", "host_down"),
)

# A stage's version is raised by one whenever its output for the same input changes, by its own code or by what it
# calls: finished shards are then stale and redone. It stands here and nowhere else.
STAGES: tuple[Stage, ...] = (
    Stage(
        name="source",
        number=10,
        kind=Kind.MAP,
        run="toolkit.source.stage:run",
        steps=("source.url", "source.language", "source.safety", "source.blacklist", "source.length"),
        after=(),
        version=1,
    ),
    Stage(
        name="unique",
        number=15,
        kind=Kind.REDUCE,
        run="toolkit.source.unique:run",
        steps=("source.duplicate",),
        after=("source",),
        version=1,
    ),
    Stage(
        name="words",
        number=18,
        kind=Kind.REDUCE,
        run="toolkit.text.words:run",
        steps=(),
        after=("source", "unique"),
        version=1,
    ),
    Stage(
        name="text",
        number=20,
        kind=Kind.MAP,
        run="toolkit.text.stage:run",
        steps=(
            "text.language",
            "text.simplified",
            "text.stopwords",
            "text.noun",
            "text.unknown",
            "text.entropy",
            "text.symbols",
            "text.safety",
        ),
        after=("source", "unique", "words"),
        version=1,
    ),
    Stage(
        name="hosts",
        number=25,
        kind=Kind.REDUCE,
        run="toolkit.fetch.hosts:run",
        steps=(),
        after=("source", "text"),
        version=1,
        checkpoints=True,
    ),
    Stage(
        name="fetch",
        number=30,
        kind=Kind.MAP,
        run="toolkit.fetch.stage:run",
        steps=tuple(f"fetch.{reason}" for reason in FETCH_REASONS),
        # What the network answered is recorded once. Another answer about some host, another shard that changes the
        # word counts, or a new measure must not throw away what was downloaded: only ids (which fix the addresses)
        # and captions of the rows count.
        after=("text",),
        rows_only=True,
        awaits=("hosts",),
        version=1,
        checkpoints=True,
    ),
    Stage(
        name="image",
        number=40,
        kind=Kind.MAP,
        run="toolkit.image.stage:run",
        steps=("image.decode", "image.shape", "image.texture", "image.blur", "image.entropy"),
        after=("fetch",),
        version=1,
    ),
    Stage(
        name="embed",
        number=50,
        kind=Kind.MAP,
        run="toolkit.embed.stage:run",
        steps=("embed.invalid",),
        after=("text", "fetch", "image"),
        version=1,
    ),
    Stage(
        name="dedup",
        number=60,
        kind=Kind.COLLECTIVE,
        run="toolkit.dedup.stage:run_batch",
        steps=("dedup.batch",),
        after=("embed",),
        version=1,
        checkpoints=True,
    ),
    Stage(
        name="align",
        number=70,
        kind=Kind.MAP,
        run="toolkit.align.stage:run",
        steps=("align.band",),
        after=("embed", "dedup"),
        version=1,
    ),
    Stage(
        name="merge",
        number=80,
        kind=Kind.COLLECTIVE,
        run="toolkit.dedup.stage:run_merge",
        steps=("merge.earlier", "merge.global"),
        after=("embed", "dedup", "align"),
        version=1,
        checkpoints=True,
    ),
    Stage(
        name="export",
        number=90,
        kind=Kind.MAP,
        run="toolkit.export.stage:run",
        steps=(),
        after=("source", "text", "fetch", "image", "embed", "dedup", "align", "merge"),
        version=1,
        close="toolkit.export.stage:close",
    ),
)

# What each stage's data is still good for when the run is finished (`danqing clean`).
USES = {
    "source": "why, and the report's samples, for pairs that the source steps dropped",
    "unique": "why for pairs that stand twice in the crawl",
    "words": "texts measured again with other options",
    "text": "why, and the report's samples, for pairs that the text steps dropped",
    "hosts": "why for pairs of hosts that did not answer or did not want us",
    "fetch": "the images that later steps dropped; without them nothing can be measured or embedded again",
    "image": "why, and the report's samples, for images that the image steps dropped",
    "embed": "deduplication or alignment again, with other thresholds or against a later crawl",
    "dedup": "why for pairs dropped as near-duplicates inside a batch",
    "align": "why for pairs outside of the alignment band",
    "merge": "why for pairs dropped as near-duplicates over all batches",
    "export": "the dataset itself",
}

# Steps that rewrite and drop nothing.
REWRITES = ("text.simplified", "text.symbols")

# A step that stands in the funnel and has no code yet, and the stage after which it stands: the paper's image safety
# model is not shipped.
ABSENT = {"safety.image": "dedup"}


@dataclass(frozen=True, slots=True)
class PaperRow:
    """One row of the paper's Table 6: pairs left after the step; `steps` are ours that do the same work."""

    label: str
    left: int
    steps: tuple[str, ...]


PAPER: tuple[PaperRow, ...] = (
    PaperRow("collected pairs", 1_047_085_609, ()),
    PaperRow("language control, content safety", 726_334_674, ("source.url", "source.language", "source.safety")),
    PaperRow(
        "source reliability, text constraints", 706_069_936, ("source.blacklist", "source.length", "source.duplicate")
    ),
    PaperRow("download", 475_104_485, ("fetch",)),
    PaperRow("Chinese detection", 467_455_303, ("text.language",)),
    PaperRow("to Simplified", 467_455_303, ("text.simplified",)),
    PaperRow("stop words", 442_680_171, ("text.stopwords",)),
    PaperRow("has a noun", 431_878_774, ("text.noun",)),
    PaperRow("[UNK] count", 431_619_647, ("text.unknown",)),
    PaperRow("text entropy", 400_068_251, ("text.entropy",)),
    PaperRow("emoji, special characters", 400_068_251, ("text.symbols",)),
    PaperRow("text safety", 397_187_759, ("text.safety",)),
    PaperRow("shape, size", 352_663_012, ("image.decode", "image.shape")),
    PaperRow("low texture", 352_204_550, ("image.texture",)),
    PaperRow("blur", 333_255_945, ("image.blur",)),
    PaperRow("image entropy", 316_359_868, ("image.entropy",)),
    PaperRow("redundancy in the batch", 186_019_602, ("dedup.batch",)),
    PaperRow("image safety", 178_601_215, ("safety.image",)),
    PaperRow("alignment band", 154_293_590, ("align.band",)),
    PaperRow("redundancy over all batches", 99_892_381, ("merge.global",)),
)


def stages(config: Config) -> tuple[Stage, ...]:
    """Return the stages that this configuration runs, in order."""
    return tuple(s for s in STAGES if s.name != "align" or config.align is not None)


BY_NAME = {stage.name: stage for stage in STAGES}


def made_of(stage: Stage, config: Config) -> tuple[str, ...]:
    """Return the stages that a stage is made of: where it keeps the best, the one that measured the column too."""
    if stage.kind is not Kind.COLLECTIVE or config.dedup.best is None:
        return tuple(stage.after)
    measured = BY_NAME[owner(config.dedup.best.removeprefix("-"))]
    added = measured.number < stage.number and measured.name not in stage.after
    return (measured.name, *stage.after) if added else tuple(stage.after)


def not_run(config: Config) -> frozenset[str]:
    """Return the steps that this configuration does not run: their threshold is null, or there is no code."""
    off = {
        "source.language": config.source.language == "any",
        "source.safety": config.source.safety is None,
        "source.blacklist": config.source.blacklist is None,
        "text.language": config.text.min_chinese is None,
        "text.simplified": not config.text.simplify,
        "text.stopwords": config.text.min_content is None,
        "text.noun": config.text.min_nouns is None,
        "text.unknown": config.text.tokenizer is None,
        "text.entropy": config.text.min_entropy is None,
        "text.symbols": not config.text.symbols,
        "text.safety": config.text.lexicon is None,
        "image.shape": config.image.max_aspect is None and config.image.min_side is None,
        "image.texture": config.image.min_texture is None,
        "image.blur": config.image.min_sharpness is None,
        "image.entropy": config.image.min_entropy is None,
        "dedup.batch": config.dedup.scope == "global",
        "align.band": config.align is None,
        "merge.earlier": not config.dedup.earlier,
        "merge.global": config.dedup.scope == "batch",
    }
    return frozenset(ABSENT) | {step for step, missing in off.items() if missing}
