"""What a training step lowers: the cross-entropy of labels, or what a class derived from this makes of a batch."""

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from amalgam.tasks.data.loading import Batch
from amalgam.tasks.training.distributed import ProcessGroup


class Objective:
    """The cross-entropy of labels.

    Others override what they need. What they remember from step to step is in `state`, so that a run can be resumed.
    """

    is_mean_over_images: bool = True
    """Whether the loss of a batch is the mean of the losses that its images would have alone."""

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def __call__(self, module: nn.Module, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        """The logits of a batch in an epoch, from 1, and the mean loss of its images."""
        logits = module(batch.images)
        return logits, self.cross_entropy(logits, batch.labels)

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean of a batch, with smoothed labels."""
        return cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def end_step(self, processes: ProcessGroup) -> None:
        """Called after every step of the optimiser, for which the objective may have been called several times."""

    def forget_step(self) -> None:
        """Called when a step is to be computed anew: forget what was noted since `end_step`."""

    def metrics(self) -> dict[str, float]:
        """What to log of an epoch; called at its end."""
        return {}

    def state(self) -> dict[str, Any]:
        """Tensors and plain values that the next epoch reads."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where the objective that gave `state` was."""
