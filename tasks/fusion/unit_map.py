"""How one member's units enter a fused network: the R/S algebra of generalized pruning.

Every fused parameter is `sum over members of merge . W . unmerge`: `merge` on the axes that make units (a weighted
mean of producers), `unmerge` on the axes that read them (each consumer reads the fused unit its input became part of).
Averaging what makes units and copying what reads them is exact for every activation when the merged units are equal;
the opposite convention (Morelli & Eckstein 2026, reference code) is exact only for positively homogeneous ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from amalgam.tasks.fusion.coupling import Coupling
from amalgam.tasks.tracing.axes import OUTPUT


@dataclass(frozen=True)
class UnitMap:
    """One member's share of one group of the fused network."""

    merge: Tensor
    """(fused units, units): weight of each unit in each fused unit; over all members the rows sum to 1."""
    unmerge: Tensor
    """(units, fused units): what each consumer of a unit reads instead."""


UnitMaps = Mapping[str, Sequence[UnitMap]]
"""Group -> one map per member."""


def unit_maps(couplings: Mapping[str, Coupling], weights: Sequence[float], num_outputs: int) -> UnitMaps:
    """Maps of every group, and of the network's outputs, where members add up with their weights.

    A fused unit is the mean of its units, weighted by their members' weights (equally if all of those are 0).
    """
    eye = torch.eye(num_outputs, dtype=torch.float64)
    outputs = [UnitMap(weight * eye, eye) for weight in weights]
    return {OUTPUT: outputs} | {group: _maps(coupling, weights) for group, coupling in couplings.items()}


def _maps(coupling: Coupling, weights: Sequence[float]) -> list[UnitMap]:
    plans, unmerges = coupling.shares(), coupling.readings()
    shares = [weight * plan.T for weight, plan in zip(weights, plans, strict=True)]
    totals = sum(share.sum(1, keepdim=True) for share in shares)
    counts = sum(plan.sum(0, keepdim=True).T for plan in plans)
    assert isinstance(totals, Tensor) and isinstance(counts, Tensor)
    return [
        UnitMap(
            torch.where(totals > 0, share / totals.clamp_min(torch.finfo(torch.float64).tiny), plan.T / counts),
            unmerge,
        )
        for share, plan, unmerge in zip(shares, plans, unmerges, strict=True)
    ]
