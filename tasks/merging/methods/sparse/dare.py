"""Drop entries of the task vectors by chance and rescale the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from amalgam.tasks.merging.methods.method import Share, TaskVectorMethod

if TYPE_CHECKING:
    from torch import Tensor

    from amalgam.tasks.merging.parameter import Parameter


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
