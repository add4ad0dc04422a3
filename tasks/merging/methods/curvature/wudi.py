"""The task matrix that interferes least with every task's, in closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from amalgam.tasks.merging.methods.method import MatrixMethod

if TYPE_CHECKING:
    from torch import Tensor

    from amalgam.tasks.merging.parameter import Parameter


class Wudi(MatrixMethod):
    """The matrix that interferes least with the tasks' own rows: RegMean with each task matrix in place of its inputs.

    It minimises `sum_t norm((D - D_t) D_t^T)^2 / norm(D_t)^2`. The published method stops Adam on this objective early,
    starting from the sum of the task matrices; this is its optimum. Directions that no task's rows have stay at the
    mean.
    """

    paper: ClassVar[str] = "Whoever started the interference should end it, Cheng et al. 2025, arXiv 2503.08099"

    def matrix(self, parameter: Parameter) -> Tensor:
        from amalgam.tasks.merging.geometry.metrics import Dense
        from amalgam.tasks.merging.geometry.solver import solve

        deltas = [delta.double() for delta in parameter.deltas]
        metrics = [Dense(delta.T @ delta).divided(float(delta.square().sum())) for delta in deltas]
        solution = solve(deltas, metrics)
        parameter.facts.update(eta=solution.eta, condition=solution.condition)
        return solution.point
