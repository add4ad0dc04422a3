"""Step functions that meet with an accident, for the tests of retries."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.steps.fusion.members import MemberConfig, train_member


class Deadly(Workspace):
    """A workspace whose first user is killed when it logs its third epoch."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log, or die."""
        accident = self.scratch / "accident"
        if step == 3 and not accident.exists():
            accident.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        super().log(metrics, step)


def train_and_be_killed_once(config: MemberConfig, inputs: Mapping[str, Path], work: Workspace) -> Any:
    """Train a member; the first attempt is killed on the way."""
    return train_member(config, inputs, Deadly(**vars(work)))
