"""Optimal transport of unequal masses: units of one member onto those of another, several onto one where it is cheaper.

POT plans how much mass goes where; a plan that divides units is rounded to a coupling, in which every unit is whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from amalgam.tasks.fusion.methods.method import Members
from amalgam.tasks.fusion.methods.partial_ot import PartialOT
from amalgam.tasks.fusion.methods.pruning.importance import INFLUENCES, Criterion, importance, masses

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from amalgam.tasks.fusion.coupling import Coupling
    from amalgam.tasks.fusion.matching import Matching

Plan = Literal["exact", "entropic", "unbalanced"]


class Transport(PartialOT):
    """Transport the units of every member onto those of the narrowest, all but a share `alpha` of them, by POT.

    The descent of `PartialOT` aligns all groups; then each is planned anew. A unit joins the one that gets most of its
    mass; the units of which least is transported stay isolated. With unequal widths, the wider members' units join
    several to one, so that alpha = 0 gives the smallest width (and all weight on a wider member no longer gives it).
    """

    mass: Literal["uniform"] | Criterion = "uniform"
    """What a unit weighs in the plan, and in the mean of what it joins: as much as any other, or its importance."""
    plan: Plan = "exact"
    """Least cost; with entropy, which spreads it; or unbalanced, where mass too dear to transport is left out."""
    regularisation: float = Field(default=0.05, gt=0)
    """Weight of the entropy, as a multiple of the mean cost."""
    penalty: float = Field(default=1.0, gt=0)
    """Weight of the divergence from the masses in an unbalanced plan, as a multiple of the mean cost."""

    @property
    def needs_activations(self) -> bool:
        return super().needs_activations or self.mass not in ("uniform", "magnitude")

    @property
    def needs_influence(self) -> bool:
        return self.mass in INFLUENCES

    def match(self, members: Members) -> Matching:
        from amalgam.tasks.fusion.methods.functional import matching_costs
        from amalgam.tasks.fusion.methods.groups import direct_matching

        costs, universe = matching_costs(members, self.cost), super().match(members).universe
        worth = importance(members, self.mass) if self.mass != "uniform" else None

        def coupling(group: str, counts: tuple[int, ...]) -> Coupling:
            import torch

            mass = masses(worth[group]) if worth else torch.ones(sum(counts), dtype=torch.float64)
            onto = min(range(len(counts)), key=lambda k: counts[k])
            slots, visit = torch.arange(counts[onto]).expand(len(counts), -1), costs.visit(group, universe)
            tables = [visit.slots(slots, k, (onto,)) if k != onto else None for k in range(len(counts))]
            return self._coupling(tables, mass.split(list(counts)), onto)

        return direct_matching(members, coupling)

    def _coupling(self, costs: list[Tensor | None], mass: tuple[Tensor, ...], onto: int) -> Coupling:
        """`costs`: per member, (units, units of member `onto`); None for that one itself."""
        import torch
        from torch.nn.functional import one_hot

        from amalgam.tasks.fusion.coupling import Coupling

        width, fused = len(mass[onto]), []
        for cost, own in zip(costs, mass, strict=True):
            if cost is None:
                fused.append(torch.arange(len(own)))
                continue
            units, places = self.joined(cost, own, mass[onto])
            alone = torch.ones(len(own), dtype=torch.bool).index_fill(0, units, False)
            found = torch.empty(len(own), dtype=torch.long)
            found[units], found[alone] = places, torch.arange(width, width + int(alone.sum()))
            width += int(alone.sum())
            fused.append(found)
        if self.mass == "uniform":
            return Coupling(tuple(fused))
        return Coupling(
            tuple(fused), plan=tuple(one_hot(f, width) * own[:, None] for f, own in zip(fused, mass, strict=True))
        )

    def joined(self, cost: Tensor, own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """The units that are matched, (1 - alpha) of all, and the unit that each joins."""
        import torch

        num_joined = round((1 - self.alpha) * len(own))
        if not num_joined:
            return torch.empty(2, 0, dtype=torch.long).unbind(0)  # type: ignore[return-value]
        shares, targets = (own / own.sum()).numpy(), (other / other.sum()).numpy()
        plan = torch.from_numpy(self._planned(cost.numpy(), shares, targets))
        moved = plan.sum(1) / torch.from_numpy(shares)
        units = moved.argsort(descending=True, stable=True)[:num_joined].sort().values
        return units, plan[units].argmax(1)

    def _planned(self, cost: np.ndarray, shares: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """(units, units): how much mass goes where."""
        import ot

        scaled = cost / max(float(cost.mean()), 1e-30)
        amount = min(1 - self.alpha, float(shares.sum()), float(targets.sum()))  # both sums are 1 up to rounding
        if self.plan == "unbalanced":
            return ot.unbalanced.sinkhorn_unbalanced(shares, targets, scaled, self.regularisation, self.penalty)
        if self.plan == "entropic":
            return ot.partial.entropic_partial_wasserstein(shares, targets, scaled, self.regularisation, m=amount)
        if self.alpha == 0:
            return ot.emd(shares, targets, scaled)
        return ot.partial.partial_wasserstein(shares, targets, scaled, m=amount)
