"""How one member's units enter a fused network: the R/S algebra of generalized pruning.

Every fused parameter is `sum over members of merge . W . unmerge`: `merge` on the axes that make units (a weighted
mean of producers), `unmerge` on the axes that read them (each consumer reads the fused unit its input became part of).
Averaging what makes units and copying what reads them is exact for every activation when the merged units are equal;
the opposite convention (Morelli & Eckstein 2026, reference code) is exact only for positively homogeneous ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from amalgam.tasks.fusion.coupling import Coupling
from amalgam.tasks.tracing.axes import OUTPUT, Axes


@dataclass(frozen=True)
class UnitMap:
    """One member's share of one group of the fused network, as matrices."""

    merge: Tensor
    """(fused units, units): weight of each unit in each fused unit; over all members the rows sum to 1."""
    unmerge: Tensor
    """(units, fused units): what each consumer of a unit reads instead."""

    @property
    def width(self) -> int:
        """Fused units."""
        return self.merge.shape[0]

    def merged(self, rows: Tensor) -> Tensor:
        """(rows, fused units): this member's part of what fused units are, from (rows, units) of its own."""
        return rows @ self.merge.to(rows).T


class IndexedMap(UnitMap):
    """A map in which every unit is part of one fused unit, and read as that: two vectors, whatever the widths.

    Its matrices are made when they are asked for.
    """

    def __init__(self, fused_unit: Tensor, weight: Tensor, width: int) -> None:
        """`fused_unit` (units,) is long, `weight` (units,) that of each unit in it."""
        vars(self).update(fused_unit=fused_unit, weight=weight, _width=width)
        self.fused_unit: Tensor
        self.weight: Tensor

    @property
    def width(self) -> int:
        return int(vars(self)["_width"])

    @cached_property
    def merge(self) -> Tensor:
        return self.unmerge.T * self.weight

    @cached_property
    def unmerge(self) -> Tensor:
        return one_hot(self.fused_unit, self.width).double()

    def merged(self, rows: Tensor) -> Tensor:
        parts = rows * self.weight.to(rows)
        return parts.new_zeros(len(rows), self.width).index_add_(1, self.fused_unit.to(rows.device), parts)


UnitMaps = Mapping[str, Sequence[UnitMap]]
"""Group -> one map per member."""


MEMBERS = "members"
"""A group of one unit that all members share: its maps are the members' weights."""
CLASSES = "classes"
"""A group for outputs that each member computes apart, where members know different classes."""


def unit_maps(
    couplings: Mapping[str, Coupling], weights: Sequence[float], outputs: int | Mapping[str, int]
) -> UnitMaps:
    """Maps of every group, and of the network's outputs, where members add up with their weights.

    `outputs` is the number of outputs, or that of each output group by name. A fused unit is the mean of its units,
    weighted by their members' weights (equally if all of those are 0).
    """
    sizes = {OUTPUT: outputs} if isinstance(outputs, int) else outputs
    added = {}
    for group, size in sizes.items():
        each = torch.ones(size, dtype=torch.float64)
        added[group] = [IndexedMap(torch.arange(size), weight * each, size) for weight in weights]
    return added | {group: _maps(coupling, weights) for group, coupling in couplings.items()}


def maps_of(
    axes: Axes, states: Sequence[Mapping[str, Tensor]], couplings: Mapping[str, Coupling], weights: Sequence[float]
) -> UnitMaps:
    """Maps of every group of a network: `couplings` for those that were matched, no units merged in `axes.isolated`.

    Outputs have a coupling where members know different classes; otherwise all members have the same.
    """
    each = [axes.sizes(state) for state in states]
    apart = {g: Coupling.from_matches(torch.empty(len(each), 0, dtype=torch.long), [s[g] for s in each])
             for g in axes.isolated if g in each[0]}  # fmt: skip
    apart |= {g: Coupling(tuple(torch.tensor([k]) for k in range(len(each)))) for g in axes.isolated - set(apart)}
    shared = {group: each[0][group] for group in axes.outputs if group not in couplings} | {MEMBERS: 1}
    return unit_maps({**couplings, **apart}, weights, shared)


def _maps(coupling: Coupling, weights: Sequence[float]) -> Sequence[UnitMap]:
    if coupling.is_whole:
        return _indexed(coupling, weights)
    # merge_k = w_k P_k^T / sum_l w_l P_l^T: over all members its rows sum to 1. Units of members that all have weight 0
    # count equally.
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


def _indexed(coupling: Coupling, weights: Sequence[float]) -> list[IndexedMap]:
    """The same where every unit is part of one fused unit."""
    totals, counts = torch.zeros(2, coupling.width, dtype=torch.float64)
    for weight, fused in zip(weights, coupling.fused_unit, strict=True):
        ones = torch.ones(len(fused), dtype=torch.float64)
        totals.index_add_(0, fused, weight * ones)
        counts.index_add_(0, fused, ones)
    shares = [
        torch.where(totals > 0, w / totals.clamp_min(torch.finfo(torch.float64).tiny), 1 / counts) for w in weights
    ]
    return [IndexedMap(f, s[f], coupling.width) for f, s in zip(coupling.fused_unit, shares, strict=True)]
