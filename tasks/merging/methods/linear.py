"""Weighted means of networks and of task vectors, and choices among members."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from amalgam.tasks.merging.methods.method import Linear, MergeMethod, Need, TaskVectorMethod

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from amalgam.tasks.merging.geometry.parameter import Parameter
    from amalgam.tasks.merging.staged import State, Statistics


class Average(Linear):
    """The mean of the members' weights: the uniform soup, or a weighted one; it needs no base."""

    paper: ClassVar[str] = "Model soups, Wortsman et al. 2022, arXiv 2203.05482"
    needs_base: ClassVar[bool] = False

    def tensor(self, parameter: Parameter) -> Tensor:
        from amalgam.tasks.merging.geometry.solver import average

        return average(parameter.values, self.weights)


class TaskArithmetic(TaskVectorMethod):
    """The base plus `scale` times the sum of the task vectors."""

    paper: ClassVar[str] = "Editing models with task arithmetic, Ilharco et al. 2023, arXiv 2212.04089"
    returns_equal: ClassVar[bool] = False

    scale: float = Field(default=0.3, allow_inf_nan=False)
    """Factor on the sum of the task vectors; 1 over the number of members gives the mean."""

    def task_vector(self, parameter: Parameter) -> Tensor:
        from amalgam.tasks.merging.geometry.solver import average

        return len(parameter.members) * average(parameter.deltas)


class WiSE(MergeMethod):
    """`(1 - alpha) base + alpha member`, of exactly one member."""

    paper: ClassVar[str] = "Robust fine-tuning of zero-shot models, Wortsman et al. 2022, arXiv 2109.01903"
    num_members: ClassVar[int | None] = 1
    returns_equal: ClassVar[bool] = False

    alpha: float = Field(default=0.5, ge=0, le=1)
    """Share of the way from the base to the member."""

    def tensor(self, parameter: Parameter) -> Tensor:
        return parameter.base_tensor.lerp(parameter.values[0], self.alpha)


class GreedySoup(MergeMethod):
    """Members join, best first, while the score of their mean does not fall; statistics give the score."""

    paper: ClassVar[str] = "Model soups, recipe 1, Wortsman et al. 2022, arXiv 2203.05482"
    needs_base: ClassVar[bool] = False
    keeps_order: ClassVar[bool] = True
    by_tensor: ClassVar[bool] = False

    @property
    def need(self) -> Need | None:
        return "score"

    def whole(self, base: State | None, members: Sequence[State], statistics: Statistics) -> dict[str, Tensor]:
        """The merged network."""
        from amalgam.tasks.clip.finetuning.interpolate import greedy_soup

        assert statistics.score is not None
        return greedy_soup(members, statistics.score)
