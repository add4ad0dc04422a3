"""When a batch does not fit into memory: its gradient in more parts, one after the other, where that changes no step.

The gradient of a mean over images is the sum of the gradients of its parts, each with its share of the images. So the
optimiser takes the same steps but for rounding (with dropout, steps of the same distribution). It is not so for batch
norm, which would see smaller batches, and for losses that need all images of a batch at once.
"""

import logging
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from amalgam.tasks.training.objective import Objective

LOG = logging.getLogger(__name__)
LEAST = 2  # images in a part
ON_CPU = "can't allocate memory"  # what torch's allocator says, by a plain RuntimeError


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch could not allocate, on a GPU or a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or ON_CPU in str(error)


@dataclass
class Division:
    """In how many parts batches are computed; it only grows."""

    number: int

    def of(self, images: int) -> int:
        """The number of parts of a batch of so many images."""
        return max(1, min(self.number, images // LEAST))

    def grow(self, images: int, module: nn.Module, objective: Objective, error: RuntimeError) -> None:
        """Divide a batch that did not fit into twice as many parts.

        Raises ValueError if its parts are as small as they can be, or if steps would no longer be the same.
        """
        now = self.of(images)
        at_once = -(-images // now)
        why = _why_whole(module, objective)
        if why is None and images // (2 * now) < LEAST:
            why = "parts of a batch cannot be smaller"
        if why:
            raise ValueError(f"memory ran out with {at_once} images at once ({why}): lower batch_size") from error
        self.number = 2 * now
        LOG.warning("memory ran out with %d images at once: batches are computed in %d parts now", at_once, self.number)


def _why_whole(module: nn.Module, objective: Objective) -> str | None:
    if not objective.is_mean_over_images:
        return "its loss needs all images of a batch at once"
    if any(isinstance(part, _BatchNorm) and part.training for part in module.modules()):
        return "batch norm needs all images of a batch at once"
    return None
