"""What all tests of the pipeline need.

MLflow reads its settings when it is first imported, so the pipeline's must come before any test imports it.
"""

import pytest

import pipeline.tracking  # noqa: F401


@pytest.fixture(autouse=True)
def no_data_root(monkeypatch):
    """Commands take data from where a test says, not from where this machine has its own."""
    monkeypatch.delenv("AMALGAM_DATA", raising=False)
