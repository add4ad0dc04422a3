"""EpiMer: task singular vectors, weighted by what each task's loss says of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from amalgam.tasks.merging.methods.method import MatrixMethod, Need

if TYPE_CHECKING:
    from torch import Tensor

    from amalgam.tasks.merging.parameter import Parameter


class EpiMer(MatrixMethod):
    """The curved mean of the tasks in the basis of TSV-M, every matrix by itself; other tensors are averaged.

    Equal curvatures of all tasks give TSV-M. The damping is shared by the tasks, relative to the mean curvature, so
    that this limit stays exact. `eta` of every matrix is logged.
    """

    paper: ClassVar[str] = "Model merging on loss landscape: a geometry perspective, Lu et al. 2026, arXiv 2605.26693"

    rank: int | None = Field(default=None, ge=1)
    """Singular vectors of each task. [default: as many as fit, the shorter side over the number of tasks]"""
    curvature: Literal["fisher", "factored", "projected"] = "fisher"
    """Diagonal Fisher, its row and column sums, or gradients of single examples staged in this very basis."""
    coordinates: Literal["sigma", "projection"] = "sigma"
    """Of a task: its singular values at its own atoms and zero elsewhere, or its matrix projected on all atoms."""
    normalize: Literal["trace", "mean", "none"] = "trace"
    """What each task's curvature is divided by: its mean over the matrix's atoms, over its network, or nothing."""
    damping: float = Field(default=1e-3, ge=0, allow_inf_nan=False)
    """Added to the diagonal of every task's curvature, as a share of the mean curvature."""
    aggregate: Literal["sum", "frechet"] = "sum"
    """The mean times the number of tasks, as atoms belong to one task each, or the plain curved mean."""

    @property
    def need(self) -> Need | None:
        return self.curvature

    def matrix(self, parameter: Parameter) -> Tensor:
        from amalgam.tasks.merging.geometry.curved import curved_task_vector

        return curved_task_vector(parameter, self)
