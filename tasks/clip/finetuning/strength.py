"""The regularisation strength (lambda): a number, or what keeps a target share of active latents.

The overlap of an image is the Jaccard index of the latents active now and in the frozen encoder. A target overlap means
the same for other encoders and autoencoders, which a strength does not (method page, section 13.4).
"""

import math
from typing import Any

import torch
from torch import Tensor

from amalgam.tasks.clip.finetuning.config import FinetuneConfig
from amalgam.tasks.clip.finetuning.drift import Drift
from amalgam.tasks.training.distributed import ProcessGroup

LARGEST_RATIO = 1e3
"""How far the search may go from where it begins, either way; a warm-up, where nothing moves yet, lowers it."""


class Strength:
    """lambda: fixed, or raised by every step whose overlap is below the target and lowered by the others."""

    def __init__(self, config: FinetuneConfig) -> None:
        self.config = config
        self._log = torch.tensor(math.log(config.strength), dtype=torch.float64)
        self._step, self._epoch = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)

    def __call__(self, drift: Drift) -> Tensor | float:
        """What multiplies the penalty on this drift, which is noted."""
        if self.config.overlap is None:
            return self.config.strength
        # With gradients: the penalty will read the very codes that are made here.
        with torch.autocast(drift.current.device.type, enabled=False):
            overlap = drift.overlap
            self._step = self._step.to(overlap.device) + torch.stack([overlap.sum(), overlap.new_tensor(len(overlap))])
        return self._log.exp().to(drift.current)

    def end_step(self, processes: ProcessGroup) -> None:
        """Adapt to the overlap of all that was noted since the last step, in all processes."""
        if self.config.overlap is None:
            return
        step = processes.sum(self._step)
        begun, reach = math.log(self.config.strength), math.log(LARGEST_RATIO)
        # Integral control of log lambda: too small an overlap raises it, in proportion to what is missing.
        change = self.config.overlap_rate * (self.config.overlap - step[0] / step[1])
        self._log = (self._log.to(step.device) + change).clamp(begun - reach, begun + reach)
        self._epoch = self._epoch.to(step.device) + step
        self._step = torch.zeros_like(step)

    def forget_step(self) -> None:
        """Forget what was noted since the last step: it is computed anew."""
        self._step = torch.zeros_like(self._step)

    def metrics(self) -> dict[str, float]:
        """The strength now and the mean overlap since the last call."""
        if self.config.overlap is None:
            return {}
        overlap, count = self._epoch.tolist()
        self._epoch = torch.zeros_like(self._epoch)
        return {"train/strength": self._log.exp().item(), "train/overlap": overlap / count}

    def state(self) -> dict[str, Any]:
        """What the next epoch reads."""
        return {"log": self._log}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._log = state["log"]
