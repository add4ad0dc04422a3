"""The sum of all task vectors, scaled."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from amalgam.tasks.merging.methods.method import TaskVectorMethod

if TYPE_CHECKING:
    from torch import Tensor

    from amalgam.tasks.merging.parameter import Parameter


class TaskArithmetic(TaskVectorMethod):
    """The base plus `scale` times the sum of the task vectors."""

    paper: ClassVar[str] = "Editing models with task arithmetic, Ilharco et al. 2023, arXiv 2212.04089"
    returns_equal: ClassVar[bool] = False

    scale: float = Field(default=0.3, allow_inf_nan=False)
    """Factor on the sum of the task vectors; 1 over the number of members gives the mean."""

    def task_vector(self, parameter: Parameter) -> Tensor:
        from amalgam.tasks.merging.geometry.solver import average

        return len(parameter.members) * average(parameter.deltas)
