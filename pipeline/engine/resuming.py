"""Training that a killed worker left behind: its last state in the step's scratch folder."""

from collections.abc import Callable
from typing import Any

import torch

from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.store.artifact import written_whole

STATE = "resume.pt"


def resume_state(work: Workspace) -> dict[str, Any] | None:
    """The state that an earlier attempt saved last, if there was one."""
    path = work.scratch / STATE
    # On the CPU: several processes of a machine would all put it on the first one's GPU.
    return torch.load(path, weights_only=True, map_location="cpu") if path.is_file() else None


def saver(work: Workspace) -> Callable[[dict[str, Any]], None]:
    """Keeps a state, whole or not at all: a worker may die while it saves."""

    def save(state: dict[str, Any]) -> None:
        with written_whole(work.scratch / STATE) as partial:
            torch.save(state, partial)

    return save
