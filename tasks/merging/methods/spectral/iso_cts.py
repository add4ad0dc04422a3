"""Isotropic merging in a common and in task-specific subspaces."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from amalgam.tasks.merging.methods.method import MatrixMethod

if TYPE_CHECKING:
    from torch import Tensor

    from amalgam.tasks.merging.parameter import Parameter


class IsoCTS(MatrixMethod):
    """The leading directions of the sum, filled up with each task's own, orthogonal and with a flat spectrum.

    Where these directions are linearly dependent, as those of copies are, the matrix is averaged.
    """

    paper: ClassVar[str] = "No task left behind, Marczak et al. 2025, arXiv 2502.04959"

    common: float = Field(default=0.8, ge=0, le=1)
    """Share of the directions that comes from the sum of the tasks."""

    def matrix(self, parameter: Parameter) -> Tensor:
        from amalgam.tasks.merging.geometry.bases import common_and_own_atoms
        from amalgam.tasks.merging.geometry.solver import average

        atoms = common_and_own_atoms(parameter.deltas, self.common)
        if atoms is None:
            parameter.facts["fallback"] = "mean: the directions are linearly dependent"
            return average(parameter.deltas)
        values = atoms.sigma.sum(0)
        return atoms.lift(values.mean().expand_as(values))
