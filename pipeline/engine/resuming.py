"""Training that a killed worker left behind: its last state in the step's scratch folder."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.store.artifact import written_whole

STATE = "resume.pt"
DIGEST_BYTES = 32  # A SHA-256 after the state: torch reads past it, and checks none of the zip's own sums.


def resume_state(work: Workspace) -> dict[str, Any] | None:
    """The state that an earlier attempt saved last; None, with a note, if it is damaged."""
    path = work.scratch / STATE
    if not path.is_file():
        return None
    if not _is_whole(path):
        work.note(f"the saved state {path} was damaged: training restarted from the beginning")
        return None
    # On the CPU: several processes of a machine would all put it on the first one's GPU.
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    return state


def saver(work: Workspace) -> Callable[[dict[str, Any]], None]:
    """Keeps a state, whole or not at all: a worker may die while it saves, and the power may fail."""

    def save(state: dict[str, Any]) -> None:
        with written_whole(work.scratch / STATE) as partial:
            torch.save(state, partial)
            digest = hashlib.sha256(partial.read_bytes()).digest()
            with partial.open("ab") as file:
                file.write(digest)

    return save


def _is_whole(path: Path) -> bool:
    """Whether a state is as it was saved."""
    left, found = os.path.getsize(path) - DIGEST_BYTES, hashlib.sha256()
    with path.open("rb") as file:
        while left > 0 and (part := file.read(min(left, 2**20))):
            found.update(part)
            left -= len(part)
        return file.read() == found.digest()
