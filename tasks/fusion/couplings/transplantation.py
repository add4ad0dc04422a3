"""Neuron transplantation (2025): the largest units of every member, the same number of each, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amalgam.tasks.fusion.couplings.pruning import MagnitudePruning

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from amalgam.tasks.fusion.cost import ActivationCost, State
    from amalgam.tasks.tracing.axes import Axes


class NeuronTransplantation(MagnitudePruning):
    """Keep the largest units of each member in turn, so that every member has a place in every layer."""

    def _importance(
        self, axes: Axes, states: Sequence[State], activations: ActivationCost | None
    ) -> Mapping[str, Tensor]:
        import torch

        sizes = [axes.sizes(state) for state in states]
        found = {}
        for group, values in super()._importance(axes, states, activations).items():
            parts = values.split([size[group] for size in sizes])
            ranks = [part.argsort(descending=True).argsort() for part in parts]
            found[group] = -torch.cat(ranks).double()  # the first of each member before the second of any
        return found
