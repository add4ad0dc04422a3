"""Pruning, then optimal transport of all units onto the kept ones (Morelli & Eckstein 2026, post-processing)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from amalgam.tasks.fusion.methods.pruning.deletion import MagnitudePruning
from amalgam.tasks.fusion.methods.pruning.importance import Criterion

if TYPE_CHECKING:
    from amalgam.tasks.fusion.cost import ActivationCost
    from amalgam.tasks.fusion.coupling import Coupling


class TransportedPruning(MagnitudePruning):
    """Keep the most important units; every unit's mass is carried to kept units that act like it, evenly filled."""

    criterion: Criterion = "spread"
    """What makes a unit important: its weights, its deviation, or what the log-likelihood loses without it."""

    @property
    def by(self) -> Criterion:
        return self.criterion

    @property
    def needs_gram(self) -> bool:
        return True

    def _after(self, kept: Coupling, group: str, activations: ActivationCost | None) -> Coupling:
        import ot
        import torch

        from amalgam.tasks.fusion.coupling import Coupling
        from amalgam.tasks.fusion.methods.groups import kept_units

        assert activations
        gram, units = activations.gram(group), kept_units(kept)
        squares = gram.diagonal()
        # |x_i - x_j|^2 = |x_i|^2 + |x_j|^2 - 2 <x_i, x_j>, from the products alone; empty masses are uniform in POT.
        cost = (squares[:, None] + squares[units][None, :] - 2 * gram[:, units]).clamp_min(0)
        plan = torch.from_numpy(ot.emd([], [], cost.numpy()))
        sizes = [len(fused) for fused in kept.fused_unit]
        return Coupling(plan.argmax(1).split(sizes), plan=plan.split(sizes))


class IntraFusion(TransportedPruning):
    """Pruned and transported units, averaged (Theus et al. 2024)."""

    kept_share: float = Field(default=0.5, ge=0, le=1)
    """Share of a fused unit that is the kept unit alone: 1 is pruning, 0 is transport."""

    def _after(self, kept: Coupling, group: str, activations: ActivationCost | None) -> Coupling:
        import torch

        from amalgam.tasks.fusion.coupling import Coupling

        moved = super()._after(kept, group, activations)
        # In a transport plan each fused unit has mass 1 / width; a kept unit of the pruned network is given the same.
        alone = [share / kept.width for share in kept.shares()]
        mixed = [self.kept_share * a + (1 - self.kept_share) * m for a, m in zip(alone, moved.shares(), strict=True)]
        return Coupling(tuple(torch.where(p.sum(1) > 0, p.argmax(1), -1) for p in mixed), plan=tuple(mixed))
