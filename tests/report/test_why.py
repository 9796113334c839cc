"""What `danqing why` says of a pair that was dropped: the value that decided, in the words of the report page."""

from __future__ import annotations

from typing import Any

import pytest

from tests.report.hostile import HOST, make
from toolkit.report.why import lines, why
from toolkit.run.run import open_run


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """A picture, nearly the same one beside it, and the first again in another shard; and one that is flat."""
    run = make(tmp_path_factory.mktemp("why"), until="merge", dedup={"keep": "best", "best": "-bytes"})
    return list(why(open_run(run), [f"{HOST}/a", f"{HOST}/same", f"{HOST}/flat"]))


def known(stories: list[dict[str, Any]]) -> dict[str, int]:
    """The bytes of each image, as fetch has counted them."""
    return {s["id"]: step["columns"]["bytes"] for s in stories for step in s["stages"] if step["stage"] == "fetch"}


def test_a_set_of_which_the_best_stays_is_told_with_the_column_and_the_values(stories: list[dict[str, Any]]) -> None:
    sizes = known(stories)
    lost = {story["stages"][-1]["dropped"]: story for story in stories}
    assert {"dedup.batch", "merge.global"} <= set(lost)
    for step in ("dedup.batch", "merge.global"):
        story = lost[step]
        last = story["stages"][-1]
        there = next(other for other in stories if other["id"] == last["columns"]["set"])
        said = f"{there['id']} has the lowest bytes and stays (bytes {sizes[story['id']]} here"
        both = f", {sizes[there['id']]} there" if there["shard"] == story["shard"] else ""
        assert last["why"].endswith(f"{said}{both})")
        assert sizes[story["id"]] >= sizes[there["id"]]
        assert f"DROPPED by {step} ({last['why']}): " in "\n".join(lines(story))
    assert ", " in lost["dedup.batch"]["stages"][-1]["why"].rpartition("(")[2]  # a batch is one shard here


def test_any_dropped_pair_is_told_with_what_decided(stories: list[dict[str, Any]]) -> None:
    flat = next(story for story in stories if story["stages"][0]["columns"]["url"] == f"{HOST}/flat")
    assert flat["dropped"] == "image.texture"
    assert flat["stages"][-1]["why"].startswith("texture ")
    assert [step["why"] for step in flat["stages"][:-1]] == [None] * (len(flat["stages"]) - 1)
