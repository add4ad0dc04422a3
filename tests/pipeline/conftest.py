"""What all tests of the pipeline need.

MLflow reads its settings when it is first imported, so the pipeline's must come before any test imports it.
"""

from collections.abc import Iterator

import pytest

import amalgam.pipeline.tracking.sync  # noqa: F401
from amalgam.pipeline.engine.execute import Ray
from amalgam.pipeline.engine.host import threads


@pytest.fixture(autouse=True)
def no_data_root(monkeypatch):
    """Commands take data from where a test says, not from where this machine has its own."""
    monkeypatch.delenv("AMALGAM_DATA", raising=False)


@pytest.fixture(scope="module")
def ray_here() -> Iterator[Ray]:
    """One Ray instance for all tests of a file: starting one takes seconds, and so do its workers' imports."""
    from amalgam.pipeline.engine.ray.cluster import connected  # here, not above: most files start no Ray

    with connected("local", []):
        yield Ray()


@pytest.fixture(scope="module")
def one_thread():
    """A module's steps on one thread, as Ray gives them: networks of a few units run no faster on several."""
    with threads(1):
        yield
