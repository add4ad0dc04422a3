"""Weights averaged by how much each task cares about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from amalgam.tasks.merging.methods.method import Linear, Need

if TYPE_CHECKING:
    from torch import Tensor

    from amalgam.tasks.merging.parameter import Parameter
    from amalgam.tasks.merging.staged import Statistics


class Fisher(Linear):
    """Each entry the mean of the members', weighted by their diagonal Fisher information; it needs no base.

    Entries of which no member's Fisher says anything are averaged, as are tensors without one.
    """

    paper: ClassVar[str] = "Merging models with Fisher-weighted averaging, Matena & Raffel 2022, arXiv 2111.09832"
    needs_base: ClassVar[bool] = False

    norm: Literal["none", "l2", "mean"] = "none"
    """What each member's Fisher is divided by first: nothing, its Euclidean norm, or its mean entry."""
    floor: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Added to every (normalised) Fisher entry."""

    @property
    def need(self) -> Need | None:
        return "fisher"

    def tensor(self, parameter: Parameter) -> Tensor:
        from amalgam.tasks.merging.geometry.metrics import Diagonal
        from amalgam.tasks.merging.geometry.solver import average, solve_diagonal

        known, metrics = parameter.statistics, []
        for member in range(len(parameter.members)):
            fisher = known.array("fisher", member, parameter.name)
            if fisher is None:
                return average(parameter.values, self.weights)
            metrics.append(Diagonal(fisher.double() / self._size(known, member) + self.floor))
        return solve_diagonal([value.double() for value in parameter.values], metrics, self.weights)

    def _size(self, known: Statistics, member: int) -> float:
        if self.norm == "none":
            return 1.0
        return (known.norm("fisher", member) if self.norm == "l2" else known.mean("fisher", member)) or 1.0
