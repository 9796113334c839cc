"""Everything that is planted: the kinds of pairs, what the funnel must do with each, and how many there are.

The crawl is laid out in blocks of 200 pairs, each with the same numbers of every kind in another order, so that 300
pairs hold every kind and 2,000 pairs hold ten times the numbers below.

Not planted, because they need a network, waiting or weights: fetch.dns, fetch.connect, fetch.tls, fetch.timeout,
fetch.incomplete, fetch.host_down, source.safety, text.unknown, embed.invalid, safety.image; `mismatch` waits for a
cross-modal encoder.
"""

from __future__ import annotations

from dataclasses import dataclass

DEDUP = "dedup.batch|merge.global"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of pair: its name, the step that drops it ("a|b" where either is right), and its number in a block."""

    name: str
    step: str | None
    count: int
    page: str = "zho"
    """Language of the pages that hold it, ISO 639-3."""

    optional: bool = False
    """Whether keeping the pair is right as well."""

    @property
    def expect(self) -> str:
        """Return "keep", or "drop:" with the stages that may drop it, or both."""
        if self.step is None:
            return "keep"
        stages = dict.fromkeys(step.split(".")[0] for step in self.step.split("|"))
        return "keep|drop:" * self.optional + "drop:" * (not self.optional) + "|".join(stages)


# In the order of the recipe's steps.
KINDS: list[Kind] = [
    Kind("clean", None, 70),
    Kind("traditional", None, 7),
    Kind("symbols", None, 7),
    Kind("redirect", None, 3),
    Kind("moved", None, 2),
    Kind("hostile_url", "source.url", 4),
    Kind("english_page", "source.language", 5, "eng"),
    Kind("japanese_page", "source.language", 3, "jpn"),
    Kind("bad_host", "source.blacklist", 2),
    Kind("bad_page", "source.blacklist", 2, "bad"),
    Kind("short", "source.length", 2),
    Kind("long", "source.length", 2),
    Kind("repeat", "source.duplicate", 4),
    Kind("english", "text.language", 2),
    Kind("japanese", "text.language", 2),
    Kind("filename", "text.language", 2),
    Kind("emoji", "text.language|text.stopwords", 1),
    Kind("stopwords", "text.stopwords", 2),
    Kind("nounless", "text.noun", 2),
    Kind("rare", "text.entropy", 1),
    Kind("unsafe", "text.safety", 1),
    Kind("private_address", "fetch.blocked_address", 3),
    Kind("odd_address", "fetch.blocked_address|fetch.bad_url|fetch.dns", 1),
    Kind("robots", "fetch.robots", 2),
    Kind("not_found", "fetch.http_4xx", 4),
    Kind("server_error", "fetch.http_5xx", 2),
    Kind("redirect_loop", "fetch.redirects", 1),
    Kind("redirect_inside", "fetch.blocked_address", 2),
    Kind("too_large", "fetch.too_large", 1),
    Kind("html", "fetch.not_image", 2),
    Kind("opt_out", "fetch.opt_out", 2),
    Kind("truncated", "image.decode", 2),
    Kind("bomb", "image.decode", 1),
    Kind("tiny", "image.shape", 3),
    Kind("aspect", "image.shape", 3),
    Kind("flat", "image.texture", 2),
    Kind("blurred", "image.blur", 4),
    Kind("low_entropy", "image.entropy", 2),
    Kind("dup_bytes", DEDUP, 6),
    Kind("dup_recompressed", DEDUP, 6),
    Kind("dup_resized", DEDUP, 6),
    Kind("dup_brightness", DEDUP, 5),
    Kind("dup_cropped", DEDUP, 5),
    Kind("dup_watermark", DEDUP, 5),
    Kind("mismatch", "align.band", 4, optional=True),
]

BLOCK = sum(kind.count for kind in KINDS)
BY_NAME: dict[str, Kind] = {kind.name: kind for kind in KINDS}
