"""Real data for the tests that can use it, and one thread for networks too small to share."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from amalgam.tasks.data.catalogue import DataSpec, check
from amalgam.tasks.data.images import Images, load


@pytest.fixture
def data_root() -> Path:
    """The folder of real data sets that AMALGAM_DATA names; the test is skipped without it."""
    if not os.environ.get("AMALGAM_DATA"):
        pytest.skip("AMALGAM_DATA names no folder of real data sets")
    return Path(os.environ["AMALGAM_DATA"])


@pytest.fixture
def load_real(data_root: Path) -> Callable[[str], tuple[Images, Images]]:
    """The train and test images of a data set by name; the test is skipped where its files are absent."""

    def load_or_skip(name: str) -> tuple[Images, Images]:
        spec = DataSpec(name=name)
        try:
            check(spec, data_root)
        except ValueError as absent:
            pytest.skip(str(absent))
        return load(spec, "train", data_root), load(spec, "test", data_root)

    return load_or_skip


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Networks of a few units run faster on one thread than on several that wait for each other."""
    torch.set_num_threads(1)
