"""RUN/report.html: the funnel beside the paper's, and what each step dropped, in one page that needs nothing else.

Promises: one file without scripts, links or requests, which its Content-Security-Policy forbids besides; every text
is escaped and made visible (visible.py) on its way into the template, whatever the template asks for; the same run
gives the same bytes; a page stays below 5 MB for a run of any size; an unfinished run has a page too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib.resources import files as resources
from itertools import islice
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import toolkit
from toolkit.data.stage import FunnelRow, stem
from toolkit.data.visible import visible
from toolkit.recipe import PAPER
from toolkit.report import joins, recall
from toolkit.report.samples import SHARDS, samples
from toolkit.report.status import status
from toolkit.run import files
from toolkit.run.funnel import funnel
from toolkit.run.run import Run

LONGEST = 200  # characters of one text that are shown
NAMED = 10  # missing units of a stage, and failures, that are named


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One step of the funnel as it is shown; shares are in percent of the step's input, bars of the first row."""

    step: str
    note: str  # "not run", "not reached", "partly done", "rewrites 21", or empty
    left: int | None
    dropped: int | None
    share: float | None
    bar: float | None
    paper_left: int | None
    paper_share: float | None
    paper_bar: float | None


def write(run: Run) -> Path:
    """Write the page into the run folder and return its path."""
    files.replace(run.layout.report, page(run))
    return run.layout.report


def page(run: Run) -> bytes:
    """Return the page as UTF-8 HTML."""
    found, absent = samples(run), list(missing(run))
    state = status(run)
    text = _template().render(
        name=run.layout.root.name,
        state=state,
        versions=versions(run),
        missing=absent,
        searches=[*map(recall.words, state["recall"]), *joins.words(state["joins"])],
        funnel=list(lines(run, [folder for folder, _, _ in absent])),
        dropped=found.dropped,
        kept=found.kept,
        unread=found.faults,
        shards=SHARDS,
        named=NAMED,
    )
    return text.encode()


def versions(run: Run) -> list[str]:
    """Return the versions of the toolkit that did the work."""
    marks = (entry.mark for stage in run.stages for entry in run.marks(stage).values())
    return sorted({str(mark.facts.get("toolkit", toolkit.__version__)) for mark in marks})


def missing(run: Run) -> Iterator[tuple[str, int, list[str]]]:
    """Yield each stage that is not done: its folder, how many units are missing, and the first of them."""
    for stage in run.stages:
        done, units = run.marks(stage), run.all_units(stage)
        if len(done) < units:
            first = islice((unit for unit in range(units) if unit not in done), NAMED)
            yield stage.folder, units - len(done), [stem(unit) for unit in first]


def lines(run: Run, unfinished: Collection[str]) -> Iterator[Line]:
    """Yield the funnel; `unfinished` are the folders of the stages that are not done."""
    rows = funnel(run)
    partly = {step for stage in run.stages if stage.folder in unfinished for step in stage.steps}
    for row in rows:
        yield Line(
            step=row.step,
            note=_note(row, row.step in partly),
            left=row.left,
            dropped=None if row.state == "rewrite" else row.dropped,
            share=None if row.state == "rewrite" else _share(row.left, row.dropped),
            bar=_percent(row.left, rows[0].left),
            paper_left=row.paper_left,
            paper_share=_share(row.paper_left, row.paper_dropped),
            paper_bar=_percent(row.paper_left, PAPER[0].left),
        )


def _note(row: FunnelRow, partly: bool) -> str:
    if row.state == "not run":
        return "not run"
    if row.left is None:
        return "not reached"
    if partly:
        return "partly done"
    return f"rewrites {row.dropped:,}" if row.state == "rewrite" else ""


def _share(left: int | None, dropped: int | None) -> float | None:
    return None if left is None or dropped is None else _percent(dropped, left + dropped)


def _percent(part: int | None, whole: int | None) -> float | None:
    return 100 * part / whole if part is not None and whole else None


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        finalize=_harmless,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"commas": "{:,}".format, "base64": Markup}
    return environment.from_string((resources("toolkit.report") / "page.html.jinja").read_text(encoding="utf-8"))


def _harmless(value: Any) -> Any:
    """Make every text of the page visible and short before it is escaped; Markup is what the template itself made."""
    return visible(value, LONGEST) if isinstance(value, str) and not isinstance(value, Markup) else value
