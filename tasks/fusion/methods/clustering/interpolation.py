"""Clusters in which important units weigh more: neuron interpolation by k-means (Luenam et al. 2025, 2507.00037)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amalgam.tasks.fusion.methods.clustering.ward import Clustering
from amalgam.tasks.fusion.methods.method import Members
from amalgam.tasks.fusion.methods.pruning.importance import INFLUENCES, Criterion, importance, masses

if TYPE_CHECKING:
    from amalgam.tasks.fusion.coupling import Coupling
    from amalgam.tasks.fusion.matching import Matching


class NeuronInterpolation(Clustering):
    """k-means in which each unit weighs as much as it is important, both in distances and in its cluster's mean.

    With a refit, layers are then fitted to these means, as the linear form of the method does.
    """

    criterion: Criterion = "fisher"
    """What makes a unit important."""

    @property
    def needs_influence(self) -> bool:
        return self.criterion in INFLUENCES

    def match(self, members: Members) -> Matching:
        from torch.nn.functional import one_hot

        from amalgam.tasks.fusion.coupling import Coupling
        from amalgam.tasks.fusion.methods.clustering.kernel_means import lloyd, ward
        from amalgam.tasks.fusion.methods.groups import direct_matching, num_units

        activations, worth = members.activations, importance(members, self.criterion)
        assert activations

        def coupling(group: str, counts: tuple[int, ...]) -> Coupling:
            gram, mass = activations.gram(group), masses(worth[group])
            labels = lloyd(gram, ward(gram, num_units(self.width, counts)), mass)
            plan = one_hot(labels) * mass[:, None]
            return Coupling(labels.split(list(counts)), plan=plan.split(list(counts)))

        return direct_matching(members, coupling)
