"""What every merge method is: a frozen, validated value that makes one tensor out of the members' tensors.

Importable without torch, so that plans and help pages are instant; the algebra is imported when a method is called.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from amalgam.tasks.merging.geometry.parameter import Parameter
    from amalgam.tasks.merging.staged import State, Statistics

Need = Literal["fisher", "factored", "projected", "grams", "embeddings", "live_grams", "score"]


def _shares(weights: tuple[float, ...] | None) -> tuple[float, ...] | None:
    if weights is not None and (
        not all(math.isfinite(w) and w >= 0 for w in weights) or not math.isclose(sum(weights), 1, abs_tol=1e-6)
    ):
        raise ValueError(f"weights must be non-negative and sum to 1, got {weights}")
    return weights


Weights = Annotated[tuple[float, ...] | None, AfterValidator(_shares)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]


class MergeMethod(BaseModel):
    """How the tensors of one name in several networks become one."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    paper: ClassVar[str]
    """Where the method comes from."""
    needs_base: ClassVar[bool] = True
    """Whether the common start must be given."""
    num_members: ClassVar[int | None] = None
    """How many members it takes; None: any number."""
    fewest_members: ClassVar[int] = 1
    """How many members it takes at least."""
    keeps_order: ClassVar[bool] = False
    """Whether the order of the members changes the result."""
    returns_equal: ClassVar[bool] = True
    """Whether merging copies of one network gives that network back."""
    by_tensor: ClassVar[bool] = True
    """Whether it can go through the tensors one by one, or must see whole networks."""

    @property
    def need(self) -> Need | None:
        """The statistics it cannot do without."""
        return None

    def tensor(self, parameter: Parameter) -> Tensor:
        """The merged tensor, in the precision it was computed in."""
        raise NotImplementedError

    def whole(self, base: State | None, members: Sequence[State], statistics: Statistics) -> dict[str, Tensor]:
        """The merged floating-point tensors of a method that is not `by_tensor`."""
        raise NotImplementedError


class Linear(MergeMethod):
    """A method that weights its members; the order of `weights` is the members'."""

    weights: Weights = None
    """Weight of each member, non-negative and summing to 1. [default: equal]"""


class TaskVectorMethod(MergeMethod):
    """A method that merges the differences to the base, called task vectors."""

    scale: Finite = 1.0
    """Factor on the merged task vector before it is added to the base."""

    def tensor(self, parameter: Parameter) -> Tensor:
        return parameter.base_tensor + self.scale * self.task_vector(parameter)

    def task_vector(self, parameter: Parameter) -> Tensor:
        """The merged task vector, unscaled."""
        raise NotImplementedError


class MatrixMethod(TaskVectorMethod):
    """A method for matrices; task vectors of every other shape (biases, norms, convolutions) are averaged."""

    exclude: tuple[str, ...] = ()
    """Matrices whose name contains one of these are averaged too, such as text_projection."""

    def task_vector(self, parameter: Parameter) -> Tensor:
        from amalgam.tasks.merging.geometry.solver import average

        if parameter.ndim != 2 or any(part in parameter.name for part in self.exclude):
            return average(parameter.deltas)
        return self.matrix(parameter)

    def matrix(self, parameter: Parameter) -> Tensor:
        """The merged task vector of a matrix (rows, columns), unscaled."""
        raise NotImplementedError
