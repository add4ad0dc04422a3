"""RegMean whose inputs are those of the merged network."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from amalgam.tasks.merging.methods.curvature.reg_mean import RegMean
from amalgam.tasks.merging.methods.method import Need

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from amalgam.tasks.merging.staged import State, Statistics


class RegMeanPlusPlus(RegMean):
    """RegMean layer by layer, each on the inputs that the layers merged before give it."""

    paper: ClassVar[str] = "RegMean++, Nguyen et al. 2025, arXiv 2508.03121"
    by_tensor: ClassVar[bool] = False

    @property
    def need(self) -> Need | None:
        return "live_grams"

    def whole(self, base: State | None, members: Sequence[State], statistics: Statistics) -> dict[str, Tensor]:
        """The merged network."""
        from amalgam.tasks.merging.parameter import Parameter

        live = statistics.live_grams
        assert live is not None
        merged: dict[str, Tensor] = {}
        for name in (*(n for n in members[0] if n not in live.layers), *live.layers):
            tensors = [member[name] for member in members]
            if not tensors[0].is_floating_point():
                continue
            grams = [live.gram(t, name, merged) if name in live.layers else None for t in range(len(members))]
            merged[name] = self.solved(Parameter(name, None, tensors), grams).to(tensors[0].dtype)
        return merged
