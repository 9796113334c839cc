"""The score: counted by hand on small truths."""

from __future__ import annotations

from typing import Any

from toolkit.data.pair import pair_id
from toolkit.demo.kinds import DEDUP
from toolkit.demo.score import MISSING, score


def planted(name: str, step: str | None = None, group: str | None = None, expect: str | None = None) -> dict[str, Any]:
    fallback = "keep" if step is None else "drop:" + step.split(".")[0]
    return {"url": name, "alt": "图", "step": step, "group": group, "expect": expect or fallback}


def verdict(name: str, step: str | None = None) -> tuple[str, str | None]:
    return pair_id(name, "图"), step


def test_per_pair_steps_count_found_missed_and_wrong() -> None:
    truth = [planted("a", group="1"), planted("b", group="2"), planted("c", "text.noun"), planted("d", "text.noun")]
    result = score(truth, [verdict("a"), verdict("b", "text.noun"), verdict("c", "text.noun"), verdict("d")])
    (row,) = [row for row in result.rows if row.step == "text.noun"]
    assert (row.planted, row.found, row.dropped) == (2, 1, 2)
    assert (row.precision, row.recall) == (0.5, 0.5)
    assert result.clean == 2
    assert result.lost == [pair_id("b", "图")]
    assert not result.perfect


def test_either_of_two_right_steps_counts() -> None:
    truth = [planted("a", "fetch.dns|fetch.bad_url"), planted("b", "fetch.dns|fetch.bad_url")]
    result = score(truth, [verdict("a", "fetch.dns"), verdict("b", "fetch.bad_url")])
    assert [(row.step, row.planted, row.found) for row in result.rows] == [("fetch.bad_url", 1, 1), ("fetch.dns", 1, 1)]
    assert result.perfect


def test_of_a_set_any_member_may_stay_but_only_one() -> None:
    truth = [planted("a", group="1"), planted("b", DEDUP, "1"), planted("c", DEDUP, "1")]
    good = score(truth, [verdict("a", "dedup.batch"), verdict("b"), verdict("c", "merge.global")])
    assert good.perfect
    assert (good.sets, good.sets_right, good.lost) == (1, 1, [])
    two_left = score(truth, [verdict("a"), verdict("b"), verdict("c", "dedup.batch")])
    assert (two_left.sets_right, two_left.rows[0].recall) == (0, 0.5)
    none_left = score(truth, [verdict(name, "dedup.batch") for name in "abc"])
    assert (none_left.sets_right, none_left.lost) == (0, [pair_id("a", "图")])
    assert none_left.rows[0].precision == 2 / 3


def test_a_single_picture_dropped_as_a_duplicate_is_lost() -> None:
    result = score([planted("a", group="1")], [verdict("a", "dedup.batch")])
    assert result.lost == [pair_id("a", "图")]
    assert (result.rows[0].planted, result.rows[0].dropped) == (0, 1)


def test_a_pair_that_occurs_twice_has_two_verdicts_in_any_order() -> None:
    truth = [planted("a", "source.duplicate"), planted("a", group="1")]
    for verdicts in ([None, "source.duplicate"], ["source.duplicate", None]):
        assert score(truth, [verdict("a", step) for step in verdicts]).perfect


def test_pairs_that_the_run_does_not_know_are_missing() -> None:
    result = score([planted("a", group="1"), planted("b", "text.noun")], [])
    assert [row.step for row in result.rows] == ["text.noun", MISSING]
    assert result.lost == [pair_id("a", "图")]


def test_a_step_that_is_not_run_is_named_so() -> None:
    result = score([planted("a", "align.band", "1", "keep|drop:align")], [verdict("a")], off={"align.band"})
    assert [(row.step, row.planted, row.ran) for row in result.rows] == [("align.band", 1, False)]
    assert result.perfect


def test_pairs_that_may_stay_or_go_are_not_scored() -> None:
    for step in (None, "text.entropy"):
        result = score([planted("a", None, "1", "keep|drop:text")], [verdict("a", step)])
        assert result.rows == []
        assert result.perfect
