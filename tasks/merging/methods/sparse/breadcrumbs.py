"""Drop the largest and the smallest entries of each task vector."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field, model_validator

from amalgam.tasks.merging.methods.method import Share, TaskVectorMethod

if TYPE_CHECKING:
    from torch import Tensor

    from amalgam.tasks.merging.parameter import Parameter


class Breadcrumbs(TaskVectorMethod):
    """The scaled sum of task vectors without their outliers and without their small entries, tensor by tensor."""

    paper: ClassVar[str] = "Model breadcrumbs, Davari & Belilovsky 2024, arXiv 2312.06795"
    returns_equal: ClassVar[bool] = False

    density: Share = 0.9
    """Share of the entries that is kept."""
    gamma: float = Field(default=0.01, ge=0, lt=1)
    """Share of the entries that is dropped for being largest; none of a tensor with fewer than 1 / gamma entries."""
    scale: float = Field(default=0.3, allow_inf_nan=False)
    """Factor on the sum of what is left."""

    @model_validator(mode="after")
    def _leaves_enough(self) -> Self:
        if self.density + self.gamma > 1:
            raise ValueError(f"density and gamma may sum to 1 at most, got {self.density} and {self.gamma}: lower one")
        return self

    def task_vector(self, parameter: Parameter) -> Tensor:
        from amalgam.tasks.merging.geometry.signs import band
        from amalgam.tasks.merging.geometry.solver import average

        return len(parameter.members) * average([band(d, self.density, self.gamma) for d in parameter.deltas])
