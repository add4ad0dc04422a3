"""Methods that work on the singular vectors of task matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from amalgam.tasks.merging.methods.method import MatrixMethod, Share

if TYPE_CHECKING:
    from torch import Tensor

    from amalgam.tasks.merging.geometry.parameter import Parameter


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


class IsoC(MatrixMethod):
    """The sum of the task matrices, its singular values replaced by their mean."""

    paper: ClassVar[str] = "No task left behind, Marczak et al. 2025, arXiv 2502.04959"
    returns_equal: ClassVar[bool] = False

    def matrix(self, parameter: Parameter) -> Tensor:
        from amalgam.tasks.merging.geometry.bases import joint_atoms
        from amalgam.tasks.merging.geometry.solver import average

        atoms = joint_atoms(len(parameter.members) * average(parameter.deltas))
        values = atoms.sigma[0]
        return atoms.lift(values.mean().expand_as(values))


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


class KnOTS(MatrixMethod):
    """One basis of outputs for all tasks, the singular vectors of their matrices side by side; TIES merges the rest.

    Meant for LoRA products, whose few directions differ between the tasks.
    """

    paper: ClassVar[str] = "Model merging with SVD to tie the KnOTS, Stoica et al. 2024, arXiv 2410.19735"

    density: Share = 0.2
    """Share of the entries of each task's part that is kept, largest first; 1 keeps all."""

    def matrix(self, parameter: Parameter) -> Tensor:
        import torch

        from amalgam.tasks.merging.geometry.bases import signed_svd
        from amalgam.tasks.merging.geometry.signs import elect, trimmed

        left, values, right = signed_svd(torch.cat(list(parameter.deltas), dim=1))
        parts = right.T.chunk(len(parameter.members), dim=1)
        return (left * values) @ elect([trimmed(part, self.density) for part in parts])
