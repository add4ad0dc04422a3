"""Clusters of units that act alike on calibration images become one unit each (generalized pruning, Morelli & Eckstein
2026): of one member or of many, and several of one member if they are alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from amalgam.tasks.fusion.methods.method import Members, Method

if TYPE_CHECKING:
    from torch import Tensor

    from amalgam.tasks.fusion.coupling import Coupling
    from amalgam.tasks.fusion.matching import Matching


class Clustering(Method):
    """What all clusterings share: they see products of activations, and keep a number of units."""

    width: float = Field(default=1.0, gt=0)
    """Units that every group keeps, as a multiple of one member's; all members' units are the ensemble."""

    @property
    def needs_activations(self) -> bool:
        return True

    @property
    def needs_gram(self) -> bool:
        return True


class Ward(Clustering):
    """Agglomerate units, always the two clusters whose union adds least to the squared distances within clusters."""

    scaled: bool = False
    """Whether consumers of a unit read its cluster times the factor that is closest to the unit."""
    one_per_member: bool = False
    """Whether a cluster may have at most one unit of each member (then it keeps at least as many as one member has)."""

    def match(self, members: Members) -> Matching:
        from amalgam.tasks.fusion.methods.clustering.kernel_means import scales
        from amalgam.tasks.fusion.methods.groups import direct_matching, from_labels, num_units

        assert members.activations
        grams = {group: members.activations.gram(group) for group in members.axes.groups}

        def coupling(group: str, counts: tuple[int, ...]) -> Coupling:
            labels = self._labels(grams[group], num_units(self.width, counts), counts)
            return from_labels(labels, counts, scales(grams[group], labels) if self.scaled else None)

        return direct_matching(members, coupling)

    def _labels(self, gram: Tensor, num_clusters: int, counts: tuple[int, ...]) -> Tensor:
        from amalgam.tasks.fusion.methods.clustering.kernel_means import constrained, ward

        labels = ward(gram, num_clusters)
        return constrained(gram, labels, num_clusters, counts) if self.one_per_member else labels


class Lloyd(Ward):
    """k-means: Ward's clusters, then every unit to the nearest mean, and means again, until nothing moves."""

    def _labels(self, gram: Tensor, num_clusters: int, counts: tuple[int, ...]) -> Tensor:
        from amalgam.tasks.fusion.methods.clustering.kernel_means import lloyd

        labels = super()._labels(gram, num_clusters, counts)
        return labels if self.one_per_member else lloyd(gram, labels)


class StochasticWard(Ward):
    """The tightest of k-means started from Ward's clusters and from random agglomerations.

    Every merge of those is drawn among the five cheapest (Morelli & Eckstein 2026, stochastic hierarchical clustering).
    """

    restarts: int = Field(default=20, ge=0)
    """Random agglomerations for each group."""
    seed: int = 0
    """Draws their merges."""

    def _labels(self, gram: Tensor, num_clusters: int, counts: tuple[int, ...]) -> Tensor:
        from amalgam.tasks.fusion.methods.clustering.kernel_means import constrained, stochastic_ward

        labels = stochastic_ward(gram, num_clusters, self.restarts, self.seed)
        return constrained(gram, labels, num_clusters, counts) if self.one_per_member else labels
