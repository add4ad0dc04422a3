"""From labels, kept units or plans of one group to couplings of all groups: what the methods of this folder share."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from amalgam.tasks.fusion.cost import State, Universe, WeightCost
from amalgam.tasks.fusion.coupling import DELETED, Coupling
from amalgam.tasks.fusion.matching import DirectMatching
from amalgam.tasks.fusion.methods.method import Members
from amalgam.tasks.tracing.axes import Axes

Sizes = tuple[int, ...]


def direct_matching(members: Members, coupling_of: Callable[[str, Sizes], Coupling]) -> DirectMatching:
    """The couplings that `coupling_of` (group, units of each member) gives for every hidden group."""
    sizes = members.axes.sizes_of_all(members.states)
    slots = {group: torch.arange(min(counts)).expand(len(counts), -1) for group, counts in sizes.items()}
    universe = Universe(slots, dict.fromkeys(sizes, 0))
    return DirectMatching(universe, sizes, found={group: coupling_of(group, counts) for group, counts in sizes.items()})


def num_units(width: float, counts: Sizes) -> int:
    """Units that a group keeps: `width` times those of the smallest member, at least one, at most all there are."""
    return max(1, min(round(width * min(counts)), sum(counts)))


def from_labels(labels: Tensor, counts: Sizes, scale: Tensor | None = None) -> Coupling:
    """Units of all members, one after the other, with the same label become one; empty labels are closed up."""
    fused = labels.unique(return_inverse=True)[1].split(list(counts))
    return Coupling(fused, scale.split(list(counts)) if scale is not None else None)


def kept_only(importance: Tensor, num_kept: int, counts: Sizes) -> Coupling:
    """The `num_kept` most important of all members' units stay alone; the others are deleted."""
    kept = importance.argsort(descending=True, stable=True)[:num_kept].sort().values
    fused = torch.full((len(importance),), DELETED)
    fused[kept] = torch.arange(num_kept)
    return Coupling(fused.split(list(counts)))


def kept_units(coupling: Coupling) -> Tensor:
    """Positions, among the units of all members, of those that a coupling keeps."""
    return (torch.cat(coupling.fused_unit) != DELETED).nonzero()[:, 0]


def magnitudes(members: Members) -> Mapping[str, Tensor]:
    """Group -> (all units,): norm of what makes a unit times norm of what reads it.

    The product does not change when a unit is rescaled and its readers undo that.
    """
    made, read = (squared_norms(members.axes, members.states, reads=reads) for reads in (False, True))
    return {group: torch.cat([(m * r).sqrt() for m, r in zip(made[group], read[group], strict=True)]) for group in made}


def squared_norms(axes: Axes, states: Sequence[State], *, reads: bool) -> dict[str, list[Tensor]]:
    """Group -> per member, (units,) float64: squared norm of the weights that make a unit, or of those that read it."""
    parameters = [name for name in axes.of if name not in axes.means | axes.variances and len(axes.of[name]) > 1]
    norms = WeightCost(axes, states, parameters).squared_norms
    return {group: [total.double().cpu() for total in norms(group, reads)] for group in axes.groups}
