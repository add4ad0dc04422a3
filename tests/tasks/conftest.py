"""Real data for the tests that can use it."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def data_root() -> Path:
    """The folder of real data sets that AMALGAM_DATA names; the test is skipped without it."""
    if "AMALGAM_DATA" not in os.environ:
        pytest.skip("AMALGAM_DATA names no folder of real data sets")
    return Path(os.environ["AMALGAM_DATA"])
