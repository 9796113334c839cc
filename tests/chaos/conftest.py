"""The run without faults that all plays are held against, made once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.play import Scene, prepared


@pytest.fixture(scope="session")
def scene() -> Iterator[Scene]:
    with prepared() as made:
        yield made
