"""Which units of several members become one unit of the fused network, for one group."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

DELETED = -1
TINY = 1e-300  # divides the shares of deleted units, which are 0


@dataclass(frozen=True)
class Coupling:
    """For one group: the fused unit that each unit of each member becomes part of.

    Several units of one member may share a fused unit (clustering); a fused unit with one unit is *isolated*, and a
    unit without one is deleted.
    """

    fused_unit: tuple[Tensor, ...]
    """Per member, (units of the member,) long: index of the fused unit, or `DELETED`."""
    scale: tuple[Tensor, ...] | None = None
    """Per member, (units,): by what consumers multiply the fused unit to get that unit; 1 if None."""
    plan: tuple[Tensor, ...] | None = None
    """Per member, (units, fused units), non-negative: shares, where a unit is divided among several fused units."""

    def __post_init__(self) -> None:
        everything = torch.cat(self.fused_unit)
        if len(everything) and everything.min() < DELETED:
            raise ValueError(f"a unit belongs to a fused unit or is deleted ({DELETED}), got {int(everything.min())}")
        if (everything == DELETED).all():
            raise ValueError("every unit of the group is deleted, so nothing is left to compute with")
        if self.plan is not None:
            counts = torch.stack([plan.sum(0) for plan in self.plan]).sum(0)
        else:
            counts = torch.bincount(everything[everything != DELETED])
        if (counts == 0).any():
            raise ValueError(f"fused unit {int(counts.argmin())} contains no unit of any member")

    @classmethod
    def from_matches(cls, matches: Tensor, sizes: Sequence[int]) -> "Coupling":
        """Units matched tuple by tuple, all others isolated.

        `matches` is (members, matched tuples) of unit indices, `sizes` the units of each member. Fused units are
        ordered: the tuples, then what is left of member 0, of member 1, ... in their own order.
        """
        num_matched, start = matches.shape[1], matches.shape[1]
        fused_units = []
        for row, size in zip(matches, sizes, strict=True):
            fused = torch.full((size,), -1, dtype=torch.long)
            fused[row] = torch.arange(num_matched)
            alone = fused < 0
            fused[alone] = torch.arange(start, start + int(alone.sum()))
            start += int(alone.sum())
            fused_units.append(fused)
        return cls(tuple(fused_units))

    @property
    def width(self) -> int:
        """Units of the fused network in this group."""
        return self.plan[0].shape[1] if self.plan is not None else int(torch.cat(self.fused_unit).max()) + 1

    @property
    def is_whole(self) -> bool:
        """Whether every unit is part of exactly one fused unit, which consumers read as it is."""
        is_divided = self.plan is not None or self.scale is not None
        return not is_divided and not any(bool((fused == DELETED).any()) for fused in self.fused_unit)

    def shares(self) -> list[Tensor]:
        """Per member, (units, fused units) float64: which part of each unit goes to which fused unit."""
        if self.plan is not None:
            return [plan.double() for plan in self.plan]
        return [one_hot(fused + 1, self.width + 1)[:, 1:].double() for fused in self.fused_unit]

    def readings(self) -> list[Tensor]:
        """Per member, (units, fused units) float64: the mixture of fused units that stands for each unit."""
        mixtures = [share / share.sum(1, keepdim=True).clamp_min(TINY) for share in self.shares()]
        if self.scale is None:
            return mixtures
        return [scale.double()[:, None] * mixture for scale, mixture in zip(self.scale, mixtures, strict=True)]

    def contains(self) -> Tensor:
        """(members, fused units) bool: whether the fused unit contains a unit of the member."""
        if self.plan is not None:
            return torch.stack([(share > 0).any(0) for share in self.plan])
        found = torch.zeros(len(self.fused_unit), self.width, dtype=torch.bool)
        for row, fused in zip(found, self.fused_unit, strict=True):
            row[fused[fused != DELETED]] = True
        return found
