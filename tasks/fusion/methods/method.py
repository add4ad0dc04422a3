"""What every matching method is: a frozen value that says which units of several members belong together.

Importable without torch, so that plans and help pages are instant; the engine is imported when a method is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from amalgam.tasks.fusion.cost import ActivationCost, State, Universe
    from amalgam.tasks.fusion.matching import Matching
    from amalgam.tasks.tracing.axes import Axes


Cost = Literal["weights", "activations", "both", "functional"]
"""What makes two units similar: the parameters around them, their activations, both in equal measure, or how little
averaging the two would change what reads them (`methods.functional`)."""


@dataclass(frozen=True)
class Members:
    """What a method reads of the networks whose units it matches."""

    axes: Axes
    states: Sequence[State]
    """The state dict of each member."""
    activations: ActivationCost | None = None
    """Statistics of all members' units on the same inputs."""
    start: Universe | None = None
    """The universe of an earlier matching to go on from; a method may ignore it."""


class Method(BaseModel):
    """How to decide which units of several members belong together; a subclass defines `match`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def needs_activations(self) -> bool:
        """Whether calling it requires activation statistics."""
        return False

    @property
    def needs_gram(self) -> bool:
        """Whether those statistics must include the products of units of one member, too."""
        return False

    @property
    def needs_influence(self) -> bool:
        """Whether those statistics must include how much each member's prediction depends on each unit."""
        return False

    @property
    def fixes_gauge(self) -> bool:
        """Whether free scales of the members' units are fixed before they are matched (see `balanced`)."""
        return True

    def prepared(self, member: nn.Module, example: Tensor | tuple[Tensor, ...]) -> Method:
        """The method with what it must know of the network itself, measured on a member; by default nothing."""
        return self

    def __call__(
        self,
        axes: Axes,
        states: Sequence[State],
        activations: ActivationCost | None = None,
        start: Universe | None = None,
    ) -> Matching:
        """Match the units of the members whose state dicts are given; `start` is an earlier universe to go on from.

        Raises ValueError if the method needs activations and there are none.
        """
        if self.needs_activations and activations is None:
            raise ValueError(f"{type(self).__name__} needs the units' activations, got none: pass calibration batches")
        return self.match(Members(axes, states, activations if self.needs_activations else None, start))

    def match(self, members: Members) -> Matching:
        """The matching of these members. Their activations are there if the method needs them, and only then."""
        raise NotImplementedError
