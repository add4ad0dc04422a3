"""Structured pruning: of all members' units, the most important stay as they are and the others are deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from amalgam.tasks.fusion.methods.method import Members, Method
from amalgam.tasks.fusion.methods.pruning.importance import INFLUENCES, Criterion, importance

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

    @property
    def by(self) -> Criterion:
        """The criterion that units are ranked by."""
        return "magnitude"

    @property
    def needs_activations(self) -> bool:
        return self.by != "magnitude" or self.needs_gram

    @property
    def needs_influence(self) -> bool:
        return self.by in INFLUENCES

    def match(self, members: Members) -> Matching:
        from amalgam.tasks.fusion.methods.groups import direct_matching, kept_only, num_units

        ranks = self._ranks(members)

        def coupling(group: str, counts: tuple[int, ...]) -> Coupling:
            kept = kept_only(ranks[group], num_units(self.width, counts), counts)
            return self._after(kept, group, members.activations)

        return direct_matching(members, coupling)

    def _ranks(self, members: Members) -> Mapping[str, Tensor]:
        """Group -> (all units,): the units with the largest numbers are kept."""
        return importance(members, self.by)

    def _after(self, kept: Coupling, group: str, activations: ActivationCost | None) -> Coupling:
        """What becomes of the deleted units: nothing."""
        return kept


class SpreadPruning(MagnitudePruning):
    """Keep the units whose activation varies most over the calibration images."""

    @property
    def by(self) -> Criterion:
        return "spread"


class TaylorPruning(MagnitudePruning):
    """Keep the units without which the log-likelihood changes most, in absolute value (Molchanov et al. 2017)."""

    @property
    def by(self) -> Criterion:
        return "taylor"


class FisherPruning(MagnitudePruning):
    """Keep the units without which the log-likelihood changes most, in mean square (Theis et al. 2018)."""

    @property
    def by(self) -> Criterion:
        return "fisher"


class NeuronTransplantation(MagnitudePruning):
    """Keep the largest units of each member in turn, the same number of each, side by side (2025)."""

    def _ranks(self, members: Members) -> Mapping[str, Tensor]:
        import torch

        sizes = [members.axes.sizes(state) for state in members.states]
        found = {}
        for group, values in super()._ranks(members).items():
            parts = values.split([size[group] for size in sizes])
            ranks = [part.argsort(descending=True).argsort() for part in parts]
            found[group] = -torch.cat(ranks).double()  # the first of each member before the second of any
        return found
