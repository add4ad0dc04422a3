"""The names under which results are recorded: the same ones for every kind of network, so that runs compare."""

from dataclasses import asdict

import torch
from torch import Tensor

from amalgam.tasks.data.images import Images
from amalgam.tasks.scoring.logits import score
from amalgam.tasks.tracing.cost import Cost


def test_metrics(logits: Tensor, images: Images) -> dict[str, float]:
    """Scores of logits on the test images, as `test/...`."""
    scores = score(logits, torch.as_tensor(images.labels), len(images.class_names))
    return {f"test/{name}": value for name, value in scores.items()}


def cost_metrics(cost: Cost) -> dict[str, float]:
    """What the network costs, as `cost/...`."""
    return {f"cost/{name}": value for name, value in asdict(cost).items()}
