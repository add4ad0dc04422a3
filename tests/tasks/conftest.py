"""Real data for the tests that can use it, and one thread for networks too small to share."""

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture
def data_root() -> Path:
    """The folder of real data sets that AMALGAM_DATA names; the test is skipped without it."""
    if "AMALGAM_DATA" not in os.environ:
        pytest.skip("AMALGAM_DATA names no folder of real data sets")
    return Path(os.environ["AMALGAM_DATA"])


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Networks of a few units run faster on one thread than on several that wait for each other."""
    torch.set_num_threads(1)
