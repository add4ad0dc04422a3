"""What a fused network costs, given how many slots of each group are matched, and which slot to split next."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from amalgam.tasks.fusion.cost import State
from amalgam.tasks.fusion.descent.costs import Costs
from amalgam.tasks.fusion.matching import Matching
from amalgam.tasks.tracing.axes import Axes

TINY = 1e-30


@dataclass(frozen=True)
class Priced:
    """One parameter: the hidden groups of its axes, and the price of each entry of their units' product."""

    groups: tuple[str, ...]
    price: float


@dataclass(frozen=True)
class Prices:
    """The price of a fused network, block by block as its structural zeros leave it (method page, 2.4)."""

    parameters: tuple[Priced, ...]
    sizes: Mapping[str, tuple[int, ...]]
    """Units of each member, per group."""

    @classmethod
    def of(cls, axes: Axes, states: Sequence[State], per_entry: Mapping[str, float] | None) -> "Prices":
        """Prices per entry of a parameter (0 where not named), or 1 for each entry of every parameter if None."""
        sizes = axes.sizes_of_all(states)
        parameters = []
        for name, entries in axes.of.items():
            is_parameter = name not in axes.means | axes.variances and states[0][name].is_floating_point()
            price = per_entry.get(name, 0.0) if per_entry is not None else float(is_parameter)
            if not price:
                continue
            hidden = tuple(axis.group for axis in entries if axis and axis.group in sizes)
            units = math.prod(sizes[group][0] for group in hidden)
            parameters.append(Priced(hidden, price * states[0][name].numel() / units))
        return cls(tuple(parameters), sizes)

    def total(self, matched: Mapping[str, int]) -> float:
        """The price of everything, with so many matched slots in each group."""
        return sum(self._of(priced, matched) for priced in self.parameters)

    def change(self, group: str, matched: Mapping[str, int]) -> float:
        """What one matched slot less of a group adds."""
        fewer = {**matched, group: matched[group] - 1}
        touched = [priced for priced in self.parameters if group in priced.groups]
        return sum(self._of(priced, fewer) - self._of(priced, matched) for priced in touched)

    def of_one_member(self) -> float:
        """The price of the first member, which is that of a network with every unit matched."""
        return self.total({group: counts[0] for group, counts in self.sizes.items()})

    def _of(self, priced: Priced, matched: Mapping[str, int]) -> float:
        if len(priced.groups) != 2:
            return priced.price * math.prod(matched[g] + sum(self._alone(g, matched)) for g in priced.groups)
        # Shared units read and are read by all; a member's isolated units meet only that member's, so that of
        # (m1 + sum a)(m2 + sum b) entries, m1 m2 + m1 sum b + m2 sum a + sum_k a_k b_k are no structural zeros.
        one, two = priced.groups
        first, second = self._alone(one, matched), self._alone(two, matched)
        shared = matched[one] * (matched[two] + sum(second)) + sum(first) * matched[two]
        return priced.price * (shared + sum(a * b for a, b in zip(first, second, strict=True)))

    def _alone(self, group: str, matched: Mapping[str, int]) -> list[int]:
        return [max(0, size - matched[group]) for size in self.sizes[group]]


def split_within(costs: Costs, matching: Matching, limits: Sequence[tuple[Prices, float]]) -> Matching:
    """The matching with its worst slots split, as many as the limits (prices, multiple of one member) allow.

    Slots are split in one order for all limits (greedy knapsack): next is the slot that lowers the relative cost of its
    group most for what it adds to the first price. Raises ValueError if a limit is exceeded with every unit matched.
    """
    universe, order, slots = matching.universe, {}, {}
    for group, table in universe.slots.items():
        cost = costs.visit(group, universe).within(table, range(len(table)))
        ranked = torch.argsort(cost, stable=True)
        slots[group], order[group] = table[:, ranked], (cost[ranked] / _scale(costs, group)).tolist()
    matched = {group: table.shape[1] for group, table in slots.items()}
    allowed = [share * prices.of_one_member() for prices, share in limits]
    if any(prices.total(matched) > most * (1 + 1e-9) for (prices, _), most in zip(limits, allowed, strict=True)):
        raise ValueError(
            "the members are wider than the first one, so even a fully matched network exceeds the budget: raise it"
        )
    spent = [prices.total(matched) for prices, _ in limits]
    while any(matched.values()):
        best = max(
            (group for group in matched if matched[group]), key=lambda g: _worth(g, matched, order, limits[0][0])
        )
        after = [now + prices.change(best, matched) for now, (prices, _) in zip(spent, limits, strict=True)]
        if any(price > most * (1 + 1e-9) for price, most in zip(after, allowed, strict=True)):
            break
        matched[best], spent = matched[best] - 1, after
    return replace(matching, universe=replace(universe, slots=slots, num_matched=matched))


def _worth(group: str, matched: Mapping[str, int], order: Mapping[str, Sequence[float]], prices: Prices) -> float:
    return order[group][matched[group] - 1] / max(prices.change(group, matched), TINY)


def _scale(costs: Costs, group: str) -> float:
    """Mean square of a unit, so that costs of groups can be compared."""
    parts: list[Tensor | float] = []
    if costs.weights:
        parts.append(costs.weights.scale(group))
    if costs.activations:
        parts.append(costs.activations.scale(group) * costs.rate(group))
    return max(float(sum(parts)), TINY)
