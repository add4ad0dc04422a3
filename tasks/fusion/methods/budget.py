"""A share of isolated units for each layer, chosen jointly so that the network stays within a budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from amalgam.tasks.fusion.methods.method import Cost, Members, Method

if TYPE_CHECKING:
    from torch import Tensor, nn

    from amalgam.tasks.fusion.matching import Matching


class Budget(Method):
    """Match every unit, then split the worst pairs, wherever that lowers the cost of matching most for its price.

    The order in which pairs are split does not depend on the budget: a larger budget splits what a smaller one does,
    and more. The budget is met from below.
    """

    flops: float | None = Field(default=None, ge=1)
    """Floating-point operations without structural zeros, as a multiple of one member's; the ensemble of K has K."""
    parameters: float | None = Field(default=None, ge=1)
    """Nonzero parameters, as a multiple of one member's; of two limits both are kept."""
    cost: Cost = "weights"
    """What makes two units similar: "weights", "activations", "both" or "functional"."""
    seed: int = 0
    """Orders the groups within a sweep of the descent."""
    flops_of_entry: tuple[tuple[str, float], ...] = Field(default=(), repr=False)
    """Parameter -> operations in which each of its entries takes part; `prepared` measures it."""

    @model_validator(mode="after")
    def _limited(self) -> Budget:
        if self.flops is None and self.parameters is None:
            raise ValueError("Budget has neither limit: set flops or parameters, such as Budget(flops=1.3)")
        return self

    @property
    def needs_activations(self) -> bool:
        return self.cost != "weights"

    def prepared(self, member: nn.Module, example: Tensor | tuple[Tensor, ...]) -> Method:
        """The budget with the operations of each parameter, measured on `member`."""
        if self.flops is None:
            return self
        from amalgam.tasks.tracing.cost import flops_by_parameter

        return self.model_copy(update={"flops_of_entry": tuple(flops_by_parameter(member, example).items())})

    def match(self, members: Members) -> Matching:
        from amalgam.tasks.fusion.matching import descend
        from amalgam.tasks.fusion.methods.budgeting import Prices, split_within
        from amalgam.tasks.fusion.methods.functional import matching_costs

        if self.flops is not None and not self.flops_of_entry:
            raise ValueError("the operations of the network are not measured: call prepared(member, example) first")
        axes, states = members.axes, members.states
        costs = matching_costs(members, self.cost)
        matched = descend(costs, 0.0, seed=self.seed, max_sweeps=100, start=members.start)
        limits = []
        if self.flops is not None:
            limits.append((Prices.of(axes, states, dict(self.flops_of_entry)), self.flops))
        if self.parameters is not None:
            limits.append((Prices.of(axes, states, None), self.parameters))
        return split_within(costs, matched, limits)
