"""Masks of the entries with the highest scores: of the whole network, or of each tensor alone."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

Budget = Literal["global", "layer"]
Scores = Mapping[str, Tensor]


def select(scores: Scores, share: float, budget: Budget = "global") -> dict[str, Tensor]:
    """True at the `share` of entries of highest score, over all tensors or within each, to the nearest whole number.

    Equal scores are taken in the order of the entries. Raises ValueError for a share outside [0, 1] and for scores that
    are not finite.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share of trained entries must be between 0 and 1, got {share}")
    for name, score in scores.items():
        if not torch.isfinite(score).all():
            raise ValueError(f"the scores of {name} are not all finite: score its entries again")
    if budget == "layer":
        return {name: _highest(score.flatten(), share).view(score.shape) for name, score in scores.items()}
    mask = _highest(torch.cat([score.flatten() for score in scores.values()]), share)
    parts = mask.split([score.numel() for score in scores.values()])
    return {name: part.view(score.shape) for (name, score), part in zip(scores.items(), parts, strict=True)}


def density(masks: Mapping[str, Tensor]) -> float:
    """The share of entries that are trained."""
    return sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())


def movement(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """How far each entry of the base's parameters moved in full fine-tuning: the magnitude baseline."""
    return {name: (tuned[name] - start).abs() for name, start in base.items()}


def random_scores(shapes: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Uniform noise for each entry: the baseline that knows nothing."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(tensor.shape, generator=generator) for name, tensor in shapes.items()}


def _highest(flat: Tensor, share: float) -> Tensor:
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask[flat.argsort(descending=True, stable=True)[: round(share * len(flat))]] = True
    return mask
