"""Records of runs, and MLflow, which shows them. MLflow reads its settings once, when it is first imported."""

import os

from amalgam.pipeline.tracking.store import SETTINGS

for name, value in SETTINGS.items():
    os.environ.setdefault(name, value)
