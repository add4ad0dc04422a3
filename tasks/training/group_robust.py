"""Training for the worst group: GroupDRO, JTT and DFR, which are values of `tasks.training.config`.

They know the group of every training image (a class shown in a style, a region) or, in the second case, only which
images a first network gets wrong. The networks they train are chosen as all others are.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from amalgam.tasks.data.loading import Batch
from amalgam.tasks.data.splits import Indices
from amalgam.tasks.training.config import GroupDRO
from amalgam.tasks.training.objective import Objective


class GroupWeighted(Objective):
    """The objective of `GroupDRO`: a batch moves the weights of groups once, by the group means of all its images."""

    is_mean_over_images = False

    def __init__(self, method: GroupDRO, groups: Tensor, label_smoothing: float = 0.0) -> None:
        super().__init__(label_smoothing)
        self.method, self.groups = method, groups
        self.weights = torch.full((int(groups.max()) + 1,), 1 / (int(groups.max()) + 1), dtype=torch.float64)

    def __call__(self, module: nn.Module, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        """See `Objective`; the loss is the sum of the group means, each times its weight."""
        logits = module(batch.images)
        losses = cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing, reduction="none")
        groups = self.groups[batch.ids].to(losses.device)
        self.weights = self.weights.to(losses.device)
        size = len(self.weights)
        counts = torch.zeros(size, device=losses.device).index_add_(0, groups, torch.ones_like(losses))
        means = torch.zeros(size, device=losses.device).index_add_(0, groups, losses) / counts.clamp(min=1)
        raised = self.weights * (self.method.step_size * means.detach().double()).exp()
        self.weights = raised / raised.sum()
        return logits, (self.weights.to(means) * means).sum()

    def state(self) -> dict[str, Any]:
        """The weights of groups."""
        return {"weights": self.weights}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with those weights."""
        self.weights = state["weights"]


def repeated(indices: Indices, is_wrong: np.ndarray, times: int) -> Indices:
    """All indices once, and those of which `is_wrong` is true `times` times."""
    return np.sort(np.concatenate([indices, *[indices[is_wrong]] * (times - 1)]))


def balanced(indices: Indices, groups: np.ndarray, seed: int) -> Indices:
    """As many of the indices for each of their groups (one of each index), as the smallest has, drawn by `seed`."""
    generator, smallest = np.random.default_rng(seed), np.unique(groups, return_counts=True)[1].min()
    chosen = [generator.permutation(np.flatnonzero(groups == group))[:smallest] for group in np.unique(groups)]
    return np.sort(indices[np.concatenate(chosen)])
