"""Linear layers that give, on every task's inputs, nearly the outputs of that task's network."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from amalgam.tasks.merging.methods.method import Linear, Need

if TYPE_CHECKING:
    from torch import Tensor

    from amalgam.tasks.merging.parameter import Parameter


class RegMean(Linear):
    """The least-squares solution on the inputs of each linear layer; everything else is averaged; it needs no base."""

    paper: ClassVar[str] = "Dataless knowledge fusion by merging weights, Jin et al. 2023, arXiv 2212.09849"
    needs_base: ClassVar[bool] = False

    off_diagonal: float = Field(default=0.9, ge=0, le=1)
    """Factor on the off-diagonal entries of the input Grams: 1 is plain least squares, smaller is more cautious."""

    @property
    def need(self) -> Need | None:
        return "grams"

    def tensor(self, parameter: Parameter) -> Tensor:
        members = range(len(parameter.members))
        return self.solved(parameter, [parameter.statistics.array("grams", t, parameter.name) for t in members])

    def solved(self, parameter: Parameter, grams: list[Tensor | None]) -> Tensor:
        """The least-squares weight (outputs, inputs) for the Grams (inputs, inputs); the mean if one is missing."""
        from amalgam.tasks.merging.geometry.metrics import Dense
        from amalgam.tasks.merging.geometry.solver import average, solve

        if parameter.ndim != 2 or any(gram is None for gram in grams):
            return average(parameter.values, self.weights)
        metrics = []
        for gram in grams:
            assert gram is not None
            wide = gram.double()
            metrics.append(Dense(self.off_diagonal * wide + (1 - self.off_diagonal) * wide.diagonal().diag()))
        solution = solve(parameter.values, metrics, self.weights)
        parameter.facts.update(eta=solution.eta, condition=solution.condition)
        return solution.point
