"""Methods that average directions and lengths separately."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from amalgam.tasks.merging.methods.method import Linear, MergeMethod

if TYPE_CHECKING:
    from torch import Tensor

    from amalgam.tasks.merging.geometry.parameter import Parameter


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


class Slerp(MergeMethod):
    """A point on the great circle between two members, each tensor a vector of its own; it needs no base."""

    paper: ClassVar[str] = "Animating rotation with quaternion curves, Shoemake 1985"
    needs_base: ClassVar[bool] = False
    num_members: ClassVar[int | None] = 2
    keeps_order: ClassVar[bool] = True

    t: float = Field(default=0.5, ge=0, le=1)
    """Share of the way from the first member to the second."""

    def tensor(self, parameter: Parameter) -> Tensor:
        from amalgam.tasks.merging.geometry.spheres import slerp

        return slerp(parameter.values[0], parameter.values[1], self.t)


class Karcher(Linear):
    """The Karcher mean of the members' directions times their mean length, tensor by tensor; it needs no base."""

    paper: ClassVar[str] = "Karcher-mean merging, arXiv 2603.04972"
    needs_base: ClassVar[bool] = False

    iterations: int = Field(default=10, ge=1)
    """Steps at most."""
    tolerance: float = Field(default=1e-5, gt=0)
    """Length of a step, in radians, below which the search ends."""

    def tensor(self, parameter: Parameter) -> Tensor:
        from amalgam.tasks.merging.geometry.solver import equal_weights
        from amalgam.tasks.merging.geometry.spheres import karcher_mean

        points = [value.double() for value in parameter.values]
        return karcher_mean(points, equal_weights(points, self.weights), self.iterations, self.tolerance)
