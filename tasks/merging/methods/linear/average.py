"""The mean of the weights, uniform or weighted."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from amalgam.tasks.merging.methods.method import Linear

if TYPE_CHECKING:
    from torch import Tensor

    from amalgam.tasks.merging.parameter import Parameter


class Average(Linear):
    """The mean of the members' weights: the uniform soup, or a weighted one; it needs no base."""

    paper: ClassVar[str] = "Model soups, Wortsman et al. 2022, arXiv 2203.05482"
    needs_base: ClassVar[bool] = False

    def tensor(self, parameter: Parameter) -> Tensor:
        from amalgam.tasks.merging.geometry.solver import average

        return average(parameter.values, self.weights)
