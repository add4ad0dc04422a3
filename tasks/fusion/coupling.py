"""Which units of several members become one unit of the fused network, for one group."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Coupling:
    """For one group: the fused unit that each unit of each member becomes part of.

    Several units of one member may share a fused unit (clustering); a fused unit with one unit is *isolated*.
    """

    fused_unit: tuple[Tensor, ...]
    """Per member, (units of the member,) long: index of the fused unit."""

    def __post_init__(self) -> None:
        everything = torch.cat(self.fused_unit)
        if len(everything) and everything.min() < 0:
            raise ValueError("every unit must belong to a fused unit, got a negative index")
        counts = torch.bincount(everything)
        if (counts == 0).any():
            raise ValueError(f"fused unit {int(counts.argmin())} holds no unit of any member")

    @classmethod
    def from_matches(cls, matches: Tensor, sizes: Sequence[int]) -> "Coupling":
        """Units matched tuple by tuple, everyone else alone.

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
        return int(torch.cat(self.fused_unit).max()) + 1

    def holds(self) -> Tensor:
        """(members, fused units) bool: whether the fused unit contains a unit of the member."""
        table = torch.zeros(len(self.fused_unit), self.width, dtype=torch.bool)
        for row, fused in zip(table, self.fused_unit, strict=True):
            row[fused] = True
        return table
