"""The score: what the funnel dropped, held against what was planted. Pure functions of the truth and the verdicts.

A pair with one right step counts for that step. Near-duplicates count by sets: of the members of a set that come as
far as the deduplication exactly one should stay, whichever it is, so a set of n plants n - 1 drops. Pairs that the
truth does not know are not looked at.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.data.pair import pair_id
from toolkit.demo.kinds import DEDUP, KINDS

DEDUP_STEPS = frozenset(DEDUP.split("|"))
AFTER_DEDUP = frozenset({"safety.image", "align.band"})
MISSING = "missing"  # the verdict of a planted pair that the run does not know


@dataclass(frozen=True, slots=True)
class Row:
    """One step: pairs planted for it, of those the ones it dropped, and all planted pairs that it dropped.

    `ran` is false for a step that the run leaves out; then neither ratio means anything.
    """

    step: str
    planted: int
    found: int
    dropped: int
    ran: bool = True

    @property
    def precision(self) -> float | None:
        """Return the share of its drops that were planted for it; None where it dropped nothing."""
        return self.found / self.dropped if self.dropped else None

    @property
    def recall(self) -> float | None:
        """Return the share of what was planted for it that it dropped; None where nothing was planted."""
        return self.found / self.planted if self.planted else None


@dataclass(frozen=True, slots=True)
class Score:
    """The rows in recipe order; pairs to be kept, and the ids of those that were lost; sets, and those with one left.

    A copy that is dropped while another member of its set stays is no loss.
    """

    rows: list[Row]
    clean: int
    lost: list[str]
    sets: int
    sets_right: int

    @property
    def perfect(self) -> bool:
        """Return whether every step that ran found all that was planted and nothing else."""
        exact = all(row.planted == row.found == row.dropped for row in self.rows if row.ran)
        return exact and not self.lost and self.sets == self.sets_right


@dataclass(frozen=True, slots=True)
class _Case:
    """One planted pair with the step that dropped it (None: kept)."""

    id: str
    step: str | None
    expect: str
    group: str | None
    verdict: str | None

    @property
    def right_steps(self) -> Sequence[str]:
        return self.step.split("|") if self.step is not None else ()

    @property
    def copy(self) -> bool:
        """Return whether the pair came as far as the deduplication of its set."""
        return self.group is not None and (self.verdict is None or self.verdict in DEDUP_STEPS | AFTER_DEDUP)

    @property
    def open(self) -> bool:
        """Return whether keeping and dropping are both right and no step is planted; such a pair is not scored."""
        return self.step is None and self.expect != "keep"


def score(
    truth: Iterable[Mapping[str, Any]],
    verdicts: Iterable[tuple[str, str | None]],
    *,
    off: Collection[str] = (),
) -> Score:
    """Score a run: rows of truth.jsonl, and for each raw pair its id (hex) with the step that dropped it, or None.

    An id that the crawl holds twice comes twice in both, in any order. `off` names the steps that were not run.
    """
    cases = _matched(truth, verdicts)
    members = defaultdict(list)
    for case in cases:
        if case.copy:
            members[case.group].append(case)
    left = {group: sum(c.verdict not in DEDUP_STEPS for c in held) for group, held in members.items()}
    return Score(
        rows=_rows(cases, members, left, off),
        clean=sum(case.expect == "keep" for case in cases),
        lost=[case.id for case in cases if _lost(case, left)],
        sets=sum(len(held) > 1 for held in members.values()),
        sets_right=sum(len(held) > 1 and left[group] == 1 for group, held in members.items()),
    )


def _matched(truth: Iterable[Mapping[str, Any]], verdicts: Iterable[tuple[str, str | None]]) -> list[_Case]:
    """Give each planted pair one verdict of its id: the one it should have if it is there, else one that is left."""
    given: dict[str, list[str | None]] = defaultdict(list)
    for name, verdict in verdicts:
        given[name].append(verdict)
    planted = [(pair_id(row["url"], row["alt"]), row) for row in truth]
    found: dict[int, str | None] = {}
    for number, (name, row) in enumerate(planted):
        right = [verdict for verdict in given[name] if _right(row, verdict)]
        if right:
            found[number] = right[0]
            given[name].remove(right[0])
    for number, (name, _) in enumerate(planted):
        if number not in found:
            found[number] = given[name].pop() if given[name] else MISSING
    return [
        _Case(name, row["step"], row["expect"], row["group"], found[number])
        for number, (name, row) in enumerate(planted)
    ]


def _right(row: Mapping[str, Any], verdict: str | None) -> bool:
    """Return whether a verdict is one that the truth allows; copies may stay or go as the set decides."""
    if verdict is None or verdict in DEDUP_STEPS:
        return row["group"] is not None
    return row["step"] is not None and verdict in row["step"].split("|")


def _rows(
    cases: Sequence[_Case],
    members: Mapping[str | None, Sequence[_Case]],
    left: Mapping[str | None, int],
    off: Collection[str],
) -> list[Row]:
    planted: Counter[str] = Counter()
    found: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for case in (case for case in cases if not case.open):
        if case.verdict is not None:
            dropped[_row(case.verdict)] += 1
        if case.step is not None and case.step != DEDUP:
            hit = case.verdict if case.verdict in case.right_steps else None
            row = _row(hit or case.right_steps[0])
            planted[row] += 1
            found[row] += hit is not None
    planted[DEDUP] = sum(len(held) - 1 for held in members.values())
    found[DEDUP] = sum(min(len(held) - left[group], len(held) - 1) for group, held in members.items())
    order = list(dict.fromkeys(_row(step) for kind in KINDS if kind.step for step in kind.step.split("|")))
    order += sorted(set(dropped) - set(order))
    return [
        Row(step, planted[step], found[step], dropped[step], _ran(step, off))
        for step in order
        if planted[step] or dropped[step]
    ]


def _lost(case: _Case, left: Mapping[str | None, int]) -> bool:
    """Return whether a pair that was to be kept is gone, and no copy of it stands in for it."""
    if case.expect != "keep" or case.verdict is None:
        return False
    return case.verdict not in DEDUP_STEPS or left.get(case.group, 0) == 0


def _row(step: str) -> str:
    return DEDUP if step in DEDUP_STEPS else step


def _ran(row: str, off: Collection[str]) -> bool:
    return not all(step in off for step in row.split("|"))
