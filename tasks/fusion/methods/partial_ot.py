"""Matching of units one to one: naive averaging, full assignment, and partial optimal transport."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from amalgam.tasks.fusion.methods.method import Cost, Members, Method

if TYPE_CHECKING:
    from amalgam.tasks.fusion.matching import Matching


class Identity(Method):
    """Unit i with unit i: naive weight averaging, of the weights as they are."""

    @property
    def fixes_gauge(self) -> bool:
        return False

    def match(self, members: Members) -> Matching:
        from amalgam.tasks.fusion.matching import identity

        return identity(members.axes, members.states)


class PartialOT(Method):
    """Match all but a share `alpha` of each group by partial optimal transport (Morelli & Eckstein 2026).

    With uniform masses this is a k-cardinality assignment, k = round((1 - alpha) n), solved exactly group by group in
    a coordinate descent over all groups. alpha = 0 matches every unit, alpha = 1 is the ensemble of logits.
    """

    alpha: float = Field(ge=0, le=1)
    """Share of each group's units that stay isolated, in [0, 1]."""
    cost: Cost = "weights"
    """What makes two units similar: "weights", "activations", "both" or "functional"."""
    seed: int = 0
    """Orders the groups within a sweep of the descent."""
    max_sweeps: int = Field(default=100, ge=0)
    """Sweeps after which the descent stops although assignments still change; 0 keeps the greedy first pass."""

    @property
    def needs_activations(self) -> bool:
        return self.cost != "weights"

    def match(self, members: Members) -> Matching:
        from amalgam.tasks.fusion.matching import descend
        from amalgam.tasks.fusion.methods.functional import matching_costs

        costs = matching_costs(members, self.cost)
        return descend(costs, self.alpha, seed=self.seed, max_sweeps=self.max_sweeps, start=members.start)


class Assignment(PartialOT):
    """Match every unit: Git Re-Basin's weight matching (cost="weights") or OT fusion (cost="activations")."""

    alpha: float = Field(default=0.0, ge=0, le=0)
