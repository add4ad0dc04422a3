"""What slots of a group cost, given the matchings of the groups beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations

import torch
from torch import Tensor

from amalgam.tasks.fusion.cost import ActivationCost, State, Universe, WeightCost
from amalgam.tasks.fusion.descent.products import PairProducts
from amalgam.tasks.tracing.axes import Axes, Blocks


@dataclass(frozen=True)
class Costs:
    """The costs a matching reads: weights, activations, or activations rescaled to count as much as weights."""

    axes: Axes
    states: Sequence[State]
    weights: WeightCost | None
    activations: ActivationCost | None

    def visit(self, group: str, universe: Universe, products: PairProducts | None = None) -> "GroupCost":
        """The costs of one group, the others aligned by `universe`; a descent of two members keeps its `products`."""
        if self.weights and products and products.knows(group):
            return GroupCost(group, self, norms=self.weights.norms(group), product=products.of(group, universe))
        return GroupCost(group, self, *self.weights.rows(group, universe)) if self.weights else GroupCost(group, self)

    def rate(self, group: str) -> float:
        """What activations count for: 1, or as much as weights where both count."""
        # Fixed for the whole descent: a rate that moved with the matching could let the objective rise.
        assert self.activations
        return self.weights.scale(group) / max(self.activations.scale(group), 1e-30) if self.weights else 1.0

    def activation_between(self, group: str, units: Tensor, members: Sequence[int]) -> Tensor:
        """(slots,): the activations' part of what the units (all members, slots) of `members` cost together."""
        assert self.activations
        pairs = [self.activations.between(group, a, b, units).cpu() for a, b in combinations(members, 2)]
        return torch.stack(pairs).sum(0) * self.rate(group) if pairs else torch.zeros(units.shape[1]).double()


@dataclass(frozen=True)
class SlotSums:
    """What the parameters of the units in each slot sum to, over some members."""

    count: int
    """Members."""
    rows: Tensor
    """(slots, entries)."""
    norms: Tensor
    """(slots,): squared norms of whole slices."""
    squares: Tensor
    """(slots,): squared norms of rows."""

    @classmethod
    def of(cls, rows: Tensor, norms: Tensor) -> "SlotSums":
        """The sums of one member, whose rows and norms are given slot by slot."""
        return cls(1, rows, norms, rows.square().sum(1))

    def plus(self, one: "SlotSums", sign: int = 1) -> "SlotSums":
        """The sums with another member's, or without them (`sign` -1)."""
        return SlotSums(
            self.count + sign * one.count,
            torch.add(self.rows, one.rows, alpha=sign),
            torch.add(self.norms, one.norms, alpha=sign),
            torch.add(self.squares, one.squares, alpha=sign),
        )

    def ordered(self, order: Tensor) -> "SlotSums":
        """The same in another order of slots."""
        order = order.to(self.rows.device)
        return SlotSums(self.count, self.rows[order], self.norms[order], self.squares[order])

    def within(self) -> Tensor:
        """(slots,) float64: the squared distances between all pairs of units in each slot."""
        # sum_{a<b} |y_a - y_b|^2 = (K - 1) sum_a |y_a|^2 - (|sum_a y_a|^2 - sum_a |y_a|^2).
        products = self.rows.square().sum(1) - self.squares
        return ((self.count - 1) * self.norms.double() - products.double()).cpu()


@dataclass(frozen=True)
class GroupCost:
    """What slots of one group cost: sums over members, so that no pair of them is computed twice."""

    group: str
    costs: Costs
    rows: Sequence[Tensor] = ()
    norms: Sequence[Tensor] = ()
    product: Tensor | None = None
    """(units of the first member, units of the second) float64, in place of rows, where it is known already."""

    def slots(self, slots: Tensor, mover: int, others: Sequence[int], rest: SlotSums | None = None) -> Tensor:
        """(units of mover, slots) float64: what a slot costs with that unit in it, beside the units of `others`.

        `rest` are the sums of the others, where they are known.
        """
        total = torch.zeros(1, slots.shape[1], dtype=torch.float64)
        if self.costs.weights and self.product is not None:
            (other,) = others
            product = (self.product if mover == 0 else self.product.T)[:, slots[other]]
            own, norms = (self.norms[k].double().cpu() for k in (mover, other))
            total = own[:, None] + norms[slots[other]][None, :] - 2 * product
        elif self.costs.weights:
            # sum_k |x - y_k|^2 = K |x|^2 + sum_k |y_k|^2 - 2 <x, sum_k y_k>: one product for all others together.
            rest = rest or self.sums(slots, others)
            own = len(others) * self.norms[mover]
            products = self.rows[mover] @ rest.rows.T
            total = rest.within()[None, :] + (own[:, None] + rest.norms[None, :] - 2 * products).double().cpu()
        if self.costs.activations:
            pairs = (self.costs.activations.pair(self.group, mover, k).cpu()[:, slots[k]] for k in others)
            between = self.costs.activation_between(self.group, slots, others)
            total = total + between[None, :] + self.costs.rate(self.group) * torch.stack(list(pairs)).sum(0)
        return total

    def sums(self, slots: Tensor, members: Sequence[int]) -> SlotSums:
        """The sums of the units of `members` in each slot, member after member, so that little is copied at once."""
        units = {k: slots[k].to(self.rows[k].device) for k in members}
        return reduce(SlotSums.plus, (SlotSums.of(self.rows[k][at], self.norms[k][at]) for k, at in units.items()))

    def within(self, slots: Tensor, members: Sequence[int]) -> Tensor:
        """(slots,) float64: sum of the distances between the units of `members` in each slot."""
        total = torch.zeros(slots.shape[1], dtype=torch.float64)
        if self.costs.weights and len(members) > 1:
            total += self.sums(slots, members).within()
        return total + self.costs.activation_between(self.group, slots, members) if self.costs.activations else total


def costs_of(axes: Axes, states: Sequence[State], activations: ActivationCost | None, weights: bool) -> Costs:
    """The costs of a matching; weights cover every floating tensor that is not a running statistic."""
    blocks = [Blocks({name: _single(t) for name, t in axes.read(state).items()}) for state in states]
    statistics = axes.means | axes.variances
    parameters = [name for name in axes.of if name not in statistics and blocks[0][name].is_floating_point()]
    return Costs(axes, blocks, WeightCost(axes, blocks, parameters) if weights else None, activations)


def _single(tensor: Tensor) -> Tensor:
    """Half precision overflows when squared."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
