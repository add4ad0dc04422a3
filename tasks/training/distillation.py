"""Distil an ensemble into one network on unlabelled images (Hinton et al. 2015): the baseline of every fusion."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

from amalgam.tasks.data.loading import Batch
from amalgam.tasks.scoring.logits import logit_ensemble, probability_ensemble
from amalgam.tasks.training.objective import Objective


class Distillation(Objective):
    """The divergence of the network's probabilities from those of the teachers' weighted mean.

    Labels are not read. The teachers see the very inputs of the student, augmented ones too.
    """

    def __init__(
        self,
        teachers: Sequence[nn.Module],
        weights: Sequence[float],
        mean_of: Literal["logits", "probabilities"] = "logits",
    ) -> None:
        super().__init__()
        if len(teachers) != len(weights):
            raise ValueError(f"give one weight per teacher: {len(teachers)} teachers, {len(weights)} weights")
        self.teachers, self.weights = [teacher.eval() for teacher in teachers], weights
        self.mean = logit_ensemble if mean_of == "logits" else probability_ensemble

    def __call__(self, module: nn.Module, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        """The logits of a batch, and their mean divergence from the ensemble's."""
        with torch.no_grad():
            target = self.mean([teacher(batch.images) for teacher in self.teachers], self.weights).log_softmax(1)
        logits = module(batch.images)
        return logits, kl_div(logits.log_softmax(1), target, reduction="batchmean", log_target=True)
