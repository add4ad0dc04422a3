"""Task vectors with few entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field, model_validator

from amalgam.tasks.merging.methods.method import Share, TaskVectorMethod

if TYPE_CHECKING:
    from torch import Tensor

    from amalgam.tasks.merging.geometry.parameter import Parameter


class Ties(TaskVectorMethod):
    """The largest entries of each task vector, averaged over the tasks that have the sign of their sum.

    Entries are chosen within each tensor, as in PEFT and mergekit, so that networks can be merged tensor by tensor.
    """

    paper: ClassVar[str] = "TIES-Merging, Yadav et al. 2023, arXiv 2306.01708"

    density: Share = 0.2
    """Share of each task vector's entries that is kept, largest first; 1 keeps all."""

    def task_vector(self, parameter: Parameter) -> Tensor:
        from amalgam.tasks.merging.geometry.signs import trimmed_and_elected

        return trimmed_and_elected(parameter.base_tensor, parameter.values, self.density)


class Dare(TaskVectorMethod):
    """Each entry of a task vector kept with probability `density` and divided by it; then their scaled sum.

    With `elect`, the entries that agree with the sign of their sum are averaged instead, as in TIES.
    """

    paper: ClassVar[str] = "Language models are super Mario, Yu et al. 2024, arXiv 2311.03099"
    returns_equal: ClassVar[bool] = False

    density: Share = 0.1
    """Probability that an entry is kept; 1 keeps all."""
    scale: float = Field(default=0.3, allow_inf_nan=False)
    """Factor on the merged task vector."""
    elect: bool = False
    """Average the entries whose sign is that of their sum, instead of adding all."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Draws the entries."""

    def task_vector(self, parameter: Parameter) -> Tensor:
        from amalgam.tasks.merging.geometry.signs import dropped_out, elect
        from amalgam.tasks.merging.geometry.solver import average

        kept = [dropped_out(delta, self.density, self.seed, parameter.name) for delta in parameter.deltas]
        return elect(kept) if self.elect else len(kept) * average(kept)


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
