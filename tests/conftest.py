"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["DENOISE_CACHE"] = "off"  # tests leave nothing behind in the home folder


STUDIES = Path(__file__).parent / "studies"


@pytest.hookimpl(tryfirst=True)  # before the groups are read
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two processes run the tests: the studies, which share a Ray cluster, beside all others, a file at a time."""
    items.sort(key=lambda item: not item.path.is_relative_to(STUDIES))  # they take longest, so they begin
    for item in items:
        name = "studies" if item.path.is_relative_to(STUDIES) else str(item.path)
        item.add_marker(pytest.mark.xdist_group(name))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real image sets: $DENOISE_DATA, else shared/data next to the repository; skips without either."""
    named = os.environ.get("DENOISE_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real data pack not found at {named or '../shared/data'} (set DENOISE_DATA to its folder)")
    return folder
