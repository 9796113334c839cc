"""The crawl that kills and wrong commands are tried on: the shared one of real photographs, else a demo crawl."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import SHARED
from tests.crawl import danqing


@pytest.fixture(scope="session")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wat/, warc/, site.json and site/: about 500 pairs in four files."""
    if SHARED.is_dir():
        return SHARED / "crawl"
    folder = tmp_path_factory.mktemp("demo") / "crawl"
    danqing("demo", "--make-only", folder, "--pairs", "500")
    return folder
