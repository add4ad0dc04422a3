"""Structured pruning: of all members' units, the most important stay as they are and the others are deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from amalgam.tasks.fusion.couplings.method import Method

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from amalgam.tasks.fusion.cost import ActivationCost, State, Universe
    from amalgam.tasks.fusion.coupling import Coupling
    from amalgam.tasks.fusion.matching import Matching
    from amalgam.tasks.tracing.axes import Axes


class MagnitudePruning(Method):
    """Keep the units with the largest weights: norm of what makes a unit times norm of what reads it (data-free)."""

    width: float = Field(default=1.0, gt=0)
    """Units that every group keeps, as a multiple of one member's."""

    def __call__(
        self,
        axes: Axes,
        states: Sequence[State],
        activations: ActivationCost | None = None,
        start: Universe | None = None,
    ) -> Matching:
        from amalgam.tasks.fusion.couplings.groups import grouping, kept_only, num_units

        if self.needs_activations and activations is None:
            raise ValueError(f"{type(self).__name__} reads activations: give calibration batches")
        importance = self._importance(axes, states, activations)

        def coupling(group: str, counts: tuple[int, ...]) -> Coupling:
            kept = kept_only(importance[group], num_units(self.width, counts), counts)
            return self._after(kept, group, activations)

        return grouping(axes, states, coupling)

    def _importance(
        self, axes: Axes, states: Sequence[State], activations: ActivationCost | None
    ) -> Mapping[str, Tensor]:
        """Group -> importance of each unit of all members, one after the other."""
        from amalgam.tasks.fusion.couplings.groups import magnitudes

        return magnitudes(axes, states)

    def _after(self, kept: Coupling, group: str, activations: ActivationCost | None) -> Coupling:
        """What becomes of the deleted units: nothing."""
        return kept


class SpreadPruning(MagnitudePruning):
    """Keep the units whose activation varies most over the calibration images."""

    @property
    def needs_activations(self) -> bool:
        return True

    def _importance(
        self, axes: Axes, states: Sequence[State], activations: ActivationCost | None
    ) -> Mapping[str, Tensor]:
        import torch

        assert activations
        everyone = range(len(states))
        return {group: torch.cat([activations.deviation(group, k) for k in everyone]) for group in axes.groups}
