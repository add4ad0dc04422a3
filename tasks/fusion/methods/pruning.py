"""Structured pruning: of all members' units, the most important stay as they are and the others are deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from amalgam.tasks.fusion.methods.method import Members, Method

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from amalgam.tasks.fusion.cost import ActivationCost
    from amalgam.tasks.fusion.coupling import Coupling
    from amalgam.tasks.fusion.matching import Matching


class MagnitudePruning(Method):
    """Keep the units with the largest weights: norm of what makes a unit times norm of what reads it (data-free)."""

    width: float = Field(default=1.0, gt=0)
    """Units that every group keeps, as a multiple of one member's."""

    def match(self, members: Members) -> Matching:
        from amalgam.tasks.fusion.methods.groups import direct_matching, kept_only, num_units

        importance = self._importance(members)

        def coupling(group: str, counts: tuple[int, ...]) -> Coupling:
            kept = kept_only(importance[group], num_units(self.width, counts), counts)
            return self._after(kept, group, members.activations)

        return direct_matching(members, coupling)

    def _importance(self, members: Members) -> Mapping[str, Tensor]:
        """Group -> importance of each unit of all members, one after the other."""
        from amalgam.tasks.fusion.methods.groups import magnitudes

        return magnitudes(members)

    def _after(self, kept: Coupling, group: str, activations: ActivationCost | None) -> Coupling:
        """What becomes of the deleted units: nothing."""
        return kept


class SpreadPruning(MagnitudePruning):
    """Keep the units whose activation varies most over the calibration images."""

    @property
    def needs_activations(self) -> bool:
        return True

    def _importance(self, members: Members) -> Mapping[str, Tensor]:
        import torch

        assert members.activations
        deviation, numbers = members.activations.deviation, range(len(members.states))
        return {group: torch.cat([deviation(group, k) for k in numbers]) for group in members.axes.groups}


class NeuronTransplantation(MagnitudePruning):
    """Keep the largest units of each member in turn, the same number of each, side by side (2025)."""

    def _importance(self, members: Members) -> Mapping[str, Tensor]:
        import torch

        sizes = [members.axes.sizes(state) for state in members.states]
        found = {}
        for group, values in super()._importance(members).items():
            parts = values.split([size[group] for size in sizes])
            ranks = [part.argsort(descending=True).argsort() for part in parts]
            found[group] = -torch.cat(ranks).double()  # the first of each member before the second of any
        return found
