"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["DENOISE_CACHE"] = "off"  # tests leave nothing behind in the home folder


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real image sets: $DENOISE_DATA, else shared/data next to the repository; skips without either."""
    named = os.environ.get("DENOISE_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real data pack not found at {named or '../shared/data'} (set DENOISE_DATA to its folder)")
    return folder
