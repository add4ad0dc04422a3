"""A step that is trained by two processes."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch

from pipeline.build import Workspace
from pipeline.ray_train import run_distributed
from tasks.distributed import World
from tests.tasks.together import outcome


def trained_by_two(
    config: Mapping[str, str], inputs: Mapping[str, Path], work: Workspace
) -> dict[str, float | int | str]:
    """Train the network of a named configuration and keep its weights."""
    return dict(run_distributed(partial(_train, config["name"], work.out), 2, work.scratch))


def _train(name: str, folder: Path, world: World, device: str) -> dict[str, float | str]:
    if name == "refused":
        raise ValueError(f"process {world.rank} refuses")
    weights = outcome(name, world)["weights"]
    if world.rank == 0:
        torch.save(weights, folder / "weights.pt")
    return {"processes": world.size, "device": device}
