"""Weights between the base and one fine-tuned network."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from amalgam.tasks.merging.methods.method import MergeMethod

if TYPE_CHECKING:
    from torch import Tensor

    from amalgam.tasks.merging.parameter import Parameter


class WiSE(MergeMethod):
    """`(1 - alpha) base + alpha member`, of exactly one member."""

    paper: ClassVar[str] = "Robust fine-tuning of zero-shot models, Wortsman et al. 2022, arXiv 2109.01903"
    num_members: ClassVar[int | None] = 1
    returns_equal: ClassVar[bool] = False

    alpha: float = Field(default=0.5, ge=0, le=1)
    """Share of the way from the base to the member."""

    def tensor(self, parameter: Parameter) -> Tensor:
        return parameter.base_tensor.lerp(parameter.values[0], self.alpha)
