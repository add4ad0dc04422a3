"""A step that is trained by two processes."""

import os
import signal
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import ray
import torch
import torch.distributed as dist

from amalgam.pipeline.engine.ray.training import run_distributed
from amalgam.pipeline.engine.resuming import resume_state, saver
from amalgam.pipeline.engine.step import Resources
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.tasks.training.distributed import ProcessGroup
from tests.tasks.training.together import outcome


def trained_by_two(
    config: Mapping[str, str], inputs: Mapping[str, Path], work: Workspace
) -> dict[str, float | int | str]:
    """Train the network of a named configuration and keep its weights; the first attempt is killed after an epoch."""
    return dict(run_distributed(partial(_train, config["name"], work), Resources(num_workers=2), work.scratch))


def place(processes: ProcessGroup, device: str) -> dict[str, float | str]:
    """What a process finds itself to be and have."""
    gpus = ray.get_runtime_context().get_assigned_resources()["GPU"]
    return {"processes": processes.size, "device": device, "backend": dist.get_backend(), "GPU": gpus}


def _train(name: str, work: Workspace, processes: ProcessGroup, device: str) -> dict[str, float | str]:
    if name == "refused":
        raise ValueError(f"process {processes.rank} refuses")
    state = resume_state(work)
    weights = outcome(name, processes, state, partial(_save_and_be_killed_once, work))["weights"]
    if processes.rank == 0:
        torch.save(weights, work.out / "weights.pt")
    return {"processes": processes.size, "device": device, "epochs before": len(state["history"]) if state else 0}


def _save_and_be_killed_once(work: Workspace, state: dict) -> None:
    is_first = resume_state(work) is None
    saver(work)(state)
    if is_first:
        os.kill(os.getpid(), signal.SIGKILL)
