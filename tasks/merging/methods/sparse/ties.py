"""Trim, elect a sign, and average the task vectors that agree with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from amalgam.tasks.merging.methods.method import Share, TaskVectorMethod

if TYPE_CHECKING:
    from torch import Tensor

    from amalgam.tasks.merging.parameter import Parameter


class Ties(TaskVectorMethod):
    """The largest entries of each task vector, averaged over the tasks that have the sign of their sum.

    Entries are chosen within each tensor, as in PEFT and mergekit, so that networks can be merged tensor by tensor.
    """

    paper: ClassVar[str] = "TIES-Merging, Yadav et al. 2023, arXiv 2306.01708"

    density: Share = 0.2
    """Share of each task vector's entries that is kept, largest first; 1 keeps all."""

    def task_vector(self, parameter: Parameter) -> Tensor:
        from amalgam.tasks.merging.geometry.signs import elect, trimmed

        return elect([trimmed(delta, self.density) for delta in parameter.deltas])
