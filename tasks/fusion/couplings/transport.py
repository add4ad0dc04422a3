"""Pruning, then optimal transport of all units onto the kept ones (Morelli & Eckstein 2026, post-processing)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amalgam.tasks.fusion.couplings.pruning import SpreadPruning

if TYPE_CHECKING:
    from amalgam.tasks.fusion.cost import ActivationCost
    from amalgam.tasks.fusion.coupling import Coupling


class TransportedPruning(SpreadPruning):
    """Keep the units that vary most; every unit's mass is carried to kept units that act like it, evenly filled."""

    @property
    def needs_gram(self) -> bool:
        return True

    def _after(self, kept: Coupling, group: str, activations: ActivationCost | None) -> Coupling:
        import ot
        import torch

        from amalgam.tasks.fusion.coupling import Coupling
        from amalgam.tasks.fusion.couplings.groups import kept_units

        assert activations
        gram, units = activations.gram(group), kept_units(kept)
        squares = gram.diagonal()
        cost = (squares[:, None] + squares[units][None, :] - 2 * gram[:, units]).clamp_min(0)
        plan = torch.from_numpy(ot.emd([], [], cost.numpy()))
        sizes = [len(fused) for fused in kept.fused_unit]
        return Coupling(plan.argmax(1).split(sizes), plan=plan.split(sizes))
