"""The mean of many directions on the sphere."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from amalgam.tasks.merging.methods.method import Linear

if TYPE_CHECKING:
    from torch import Tensor

    from amalgam.tasks.merging.parameter import Parameter


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
