"""Pseudo-labels of unlabelled examples: present predictions averaged with earlier ones of the same example.

    p     = a p_now + (1 - a) p_mean           p_mean of an example that was not seen before is p_now
    p_mean <- b p_mean + (1 - b) p
    kept: examples whose greatest probability is above the rho-quantile of the batch

The running mean belongs to an example's id, not to its place in a batch (Manni et al. 2025, SPARSE, section 3).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class PseudoLabelled:
    """Pseudo-labels of one batch, in its order."""

    probabilities: Tensor
    """(examples, classes)"""
    labels: Tensor
    """(examples,): the most probable class."""
    kept: Tensor
    """(examples,) of bool: confident enough to be learned from."""


@dataclass(frozen=True)
class PseudoLabels:
    """Running means of predictions, keyed by example id."""

    now: float = 0.6
    """a: weight of the present prediction; 1 ignores the past."""
    decay: float = 0.99
    """b: weight of the past in the running mean; 1 keeps the first prediction for ever, 0 the last one alone."""
    quantile: float = 0.75
    """rho: share of a batch that is not kept."""
    means: dict[int, Tensor] = field(default_factory=dict)
    """By example id, (classes,)."""

    def __post_init__(self) -> None:
        for name in ("now", "decay", "quantile"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")

    def update(self, ids: Sequence[int], probabilities: Tensor) -> PseudoLabelled:
        """Pseudo-labels of examples by id, of combined probabilities (examples, classes); updates their means."""
        if len(set(ids)) != len(ids) or len(ids) != len(probabilities):
            raise ValueError(f"ids must be distinct, one for each of {len(probabilities)} examples, got {len(ids)}")
        past = torch.stack([self.means.get(key, now) for key, now in zip(ids, probabilities, strict=True)])
        combined = self.now * probabilities + (1 - self.now) * past
        self.means.update(zip(ids, self.decay * past + (1 - self.decay) * combined, strict=True))
        certainty, labels = combined.max(1)
        kept = certainty > torch.quantile(certainty, self.quantile) if self.quantile else torch.ones_like(labels).bool()
        return PseudoLabelled(combined, labels, kept)
