"""X-Robots-Tag and robots.txt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protego import Protego

from toolkit.fetch.optout import AGENT, allows, refuses, rules

VALUES = ["noai", "noimageai", "noindex", "noimageindex", "none"]


@pytest.mark.parametrize(
    "headers",
    [
        ["noai"],
        ["NoAI"],
        ["nofollow, noimageai"],
        ["nofollow", "noindex"],
        ["*: noai"],
        ["danqing-toolkit: noai"],
        ["otherbot: nofollow, danqing-toolkit: nofollow, noai"],
        ["Danqing-Toolkit : none"],
        ["max-snippet: 50, noai"],
        ["unavailable_after: Fri, 25 Jun 2010 15:00:00 PST, noai"],
        ["otherbot: noai", "noindex"],
    ],
)
def test_header_refuses(headers: list[str]) -> None:
    assert refuses(headers, VALUES)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [""],
        ["all"],
        ["otherbot: noai"],
        ["otherbot: nofollow, noai"],
        ["nofollow"],
        ["noaix"],
        ["max-image-preview: none"],
    ],
)
def test_header_does_not_refuse(headers: list[str]) -> None:
    assert not refuses(headers, VALUES)


def test_only_configured_values_refuse() -> None:
    assert not refuses(["noindex"], ["noai"])


@pytest.mark.parametrize(
    "text", ["", "<html>no rules</html>", "User-agent: *\nDisallow:\n", "User-agent: x\nDisallow: /"]
)
def test_robots_that_allow_us_all_are_null(text: str) -> None:
    assert rules(text) is None


def test_our_group_wins_over_the_one_for_all() -> None:
    text = "\ufeffUser-agent: *\nDisallow: /\n\nUser-Agent: x\nUser-agent: Danqing-Toolkit/1.0\n"
    text += "Disallow: /no # why\nAllow: /no/yes\n"
    kept = rules(text)
    assert kept == "User-agent: *\nDisallow: /no\nAllow: /no/yes\n"
    assert allows(kept, "http://a.test/else.jpg")
    assert not allows(kept, "http://a.test/no/x.jpg")
    assert allows(kept, "http://a.test/no/yes/x.jpg")


def test_no_rules_allow() -> None:
    assert allows(None, "http://a.test/x")


AGENTS = st.sampled_from(["*", AGENT, "otherbot", "Danqing-Toolkit"])
PATHS = st.text("ab/*$", max_size=5).map("/".__add__)
LINES = st.one_of(
    AGENTS.map("User-agent: {}".format),
    PATHS.map("Disallow: {}".format),
    PATHS.map("Allow: {}".format),
    st.sampled_from(["", "# a comment", "Sitemap: http://a.test/map.xml", "Disallow:"]),
)


@given(st.lists(LINES, max_size=12), st.lists(st.text("ab/", max_size=6).map("/".__add__), min_size=1, max_size=4))
def test_kept_rules_say_the_same_as_the_whole_file(lines: list[str], paths: list[str]) -> None:
    text = "\n".join(lines)
    whole, kept = Protego.parse(text), rules(text)
    for path in paths:
        url = f"http://a.test{path}"
        assert allows(kept, url) == whole.can_fetch(url, AGENT), (text, url)
