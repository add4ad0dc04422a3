"""Isotropic merging: the sum of the task matrices with a flat spectrum."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from amalgam.tasks.merging.methods.method import MatrixMethod

if TYPE_CHECKING:
    from torch import Tensor

    from amalgam.tasks.merging.parameter import Parameter


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
