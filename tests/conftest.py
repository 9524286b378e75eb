"""Fixtures that every test folder shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real recordings, from OPENCLEF_DATA (default: ../shared/data)."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("OPENCLEF_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} does not exist; set OPENCLEF_DATA")
    return folder
