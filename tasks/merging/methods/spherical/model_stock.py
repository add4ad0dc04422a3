"""How far to go from the base to the mean, by the angle between the task vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from amalgam.tasks.merging.methods.method import MergeMethod

if TYPE_CHECKING:
    from torch import Tensor

    from amalgam.tasks.merging.parameter import Parameter


class ModelStock(MergeMethod):
    """`t mean + (1 - t) base` with `t = N cos / (1 + (N - 1) cos)` of each tensor, cos the mean over pairs of members.

    Parallel task vectors give the mean, orthogonal ones the base. So do the opposed ones whose cosine of
    `-1 / (N - 1)` makes the formula infinite.
    """

    paper: ClassVar[str] = "Model Stock, Jang et al. 2024, arXiv 2403.19522"
    fewest_members: ClassVar[int] = 2

    def tensor(self, parameter: Parameter) -> Tensor:
        from amalgam.tasks.merging.geometry.solver import average
        from amalgam.tasks.merging.geometry.spheres import mean_cosine

        deltas, count = parameter.deltas, len(parameter.members)
        cosine = mean_cosine(list(deltas))
        if cosine is None:
            return average(parameter.values)
        below = 1 + (count - 1) * cosine
        share = count * cosine / below if below > 1e-6 else 0.0
        parameter.facts["share"] = share
        return parameter.base_tensor + share * average(deltas)
