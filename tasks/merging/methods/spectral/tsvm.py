"""Task singular vectors: the leading directions of all tasks, made orthogonal, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from amalgam.tasks.merging.methods.method import MatrixMethod

if TYPE_CHECKING:
    from torch import Tensor

    from amalgam.tasks.merging.parameter import Parameter


class TSVM(MatrixMethod):
    """Every task's leading singular vectors made orthogonal to the other tasks', with its own singular values.

    Where tasks share directions, as copies and multiples of one network do, no orthogonal ones exist: that matrix is
    averaged, and its facts say so.
    """

    paper: ClassVar[str] = "Task singular vectors, Gargiulo et al. 2025, arXiv 2412.00081"

    rank: int | None = Field(default=None, ge=1)
    """Singular vectors of each task. [default: as many as fit, the shorter side over the number of tasks]"""

    def matrix(self, parameter: Parameter) -> Tensor:
        from amalgam.tasks.merging.geometry.bases import task_atoms
        from amalgam.tasks.merging.geometry.solver import average

        atoms = task_atoms(parameter.deltas, self.rank)
        if atoms is None:
            parameter.facts["fallback"] = "mean: the tasks have no orthogonal directions"
            return average(parameter.deltas)
        return atoms.lift(atoms.sigma.sum(0))
