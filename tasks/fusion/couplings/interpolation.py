"""Intra-Fusion (Theus et al. 2024): half of what a kept unit becomes is itself, half what is transported onto it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from amalgam.tasks.fusion.couplings.transport import TransportedPruning

if TYPE_CHECKING:
    from amalgam.tasks.fusion.cost import ActivationCost
    from amalgam.tasks.fusion.coupling import Coupling


class IntraFusion(TransportedPruning):
    """Pruned and transported units, averaged."""

    kept_share: float = Field(default=0.5, ge=0, le=1)
    """Share of a fused unit that is the kept unit alone: 1 is pruning, 0 is transport."""

    def _after(self, kept: Coupling, group: str, activations: ActivationCost | None) -> Coupling:
        import torch

        from amalgam.tasks.fusion.coupling import Coupling

        moved = super()._after(kept, group, activations)
        # Masses as in transport: a kept unit of the pruned network holds its whole place, 1 / number of kept units.
        alone = [share / kept.width for share in kept.shares()]
        mixed = [self.kept_share * a + (1 - self.kept_share) * m for a, m in zip(alone, moved.shares(), strict=True)]
        return Coupling(tuple(torch.where(p.sum(1) > 0, p.argmax(1), -1) for p in mixed), plan=tuple(mixed))
