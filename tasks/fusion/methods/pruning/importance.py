"""Which units matter: the criteria of pruning, and the masses of transport and of weighted clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from amalgam.tasks.fusion.methods.method import Members

Criterion = Literal["magnitude", "spread", "taylor", "fisher"]
"""What makes a unit important: its weights (norm of what makes it times norm of what reads it, data-free), the standard
deviation of its activation, or the mean absolute (Taylor) or mean square (Fisher) change of the log-likelihood without
it, to first order."""
INFLUENCES = ("taylor", "fisher")


def importance(members: Members, criterion: Criterion) -> Mapping[str, Tensor]:
    """Group -> (all units,) float64, non-negative: importance of each unit of all members, one after the other.

    None of the criteria changes when a unit is rescaled and its readers undo that, but for the spread.
    """
    import torch

    from amalgam.tasks.fusion.methods.groups import magnitudes

    if criterion == "magnitude":
        return magnitudes(members)
    assert members.activations
    if criterion == "spread":
        deviation, numbers = members.activations.deviation, range(len(members.states))
        return {group: torch.cat([deviation(group, k) for k in numbers]) for group in members.axes.groups}
    return {group: found[:, INFLUENCES.index(criterion)] for group, found in members.activations.influence.items()}


LEAST = 1e-6  # of the mean: what has no importance still has a place, so that no fused unit is without mass


def masses(worth: Tensor) -> Tensor:
    """Importance as masses with mean 1, none of them zero."""
    return (worth / worth.mean().clamp_min(1e-30)).clamp_min(LEAST)
