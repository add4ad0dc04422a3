"""The arc between two networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from amalgam.tasks.merging.methods.method import MergeMethod

if TYPE_CHECKING:
    from torch import Tensor

    from amalgam.tasks.merging.parameter import Parameter


class Slerp(MergeMethod):
    """A point on the great circle between two members, each tensor a vector of its own; it needs no base."""

    paper: ClassVar[str] = "Animating rotation with quaternion curves, Shoemake 1985"
    needs_base: ClassVar[bool] = False
    num_members: ClassVar[int | None] = 2
    keeps_order: ClassVar[bool] = True

    t: float = Field(default=0.5, ge=0, le=1)
    """Share of the way from the first member to the second."""

    def tensor(self, parameter: Parameter) -> Tensor:
        from amalgam.tasks.merging.geometry.spheres import slerp

        return slerp(parameter.values[0], parameter.values[1], self.t)
