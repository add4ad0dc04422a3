"""What a fused network costs as a function of how many slots of each group are matched, and whom to take apart next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from amalgam.tasks.fusion.cost import State
from amalgam.tasks.fusion.matching import Costs, Matching
from amalgam.tasks.tracing.axes import OUTPUT, Axes

TINY = 1e-30


@dataclass(frozen=True)
class Place:
    """One parameter: the hidden groups of its axes, and the price of each entry of their units' product."""

    groups: tuple[str, ...]
    price: float


@dataclass(frozen=True)
class Prices:
    """The price of a fused network, block by block as its structural zeros leave it (method page, 2.4)."""

    places: tuple[Place, ...]
    sizes: Mapping[str, tuple[int, ...]]
    """Units of each member, per group."""

    @classmethod
    def of(cls, axes: Axes, states: Sequence[State], per_entry: Mapping[str, float] | None) -> "Prices":
        """Prices per entry of a parameter (0 where not named), or 1 for each entry of every parameter if None."""
        each = [axes.sizes(state) for state in states]
        sizes = {group: tuple(found[group] for found in each) for group in axes.groups}
        places = []
        for name, entries in axes.of.items():
            is_parameter = name not in axes.means | axes.variances and states[0][name].is_floating_point()
            price = per_entry.get(name, 0.0) if per_entry is not None else float(is_parameter)
            if not price:
                continue
            hidden = tuple(axis.group for axis in entries if axis and axis.group != OUTPUT)
            units = 1
            for group in hidden:
                units *= each[0][group]
            places.append(Place(hidden, price * states[0][name].numel() / units))
        return cls(tuple(places), sizes)

    def total(self, matched: Mapping[str, int]) -> float:
        """The price of everything, with so many matched slots in each group."""
        return sum(self._of(place, matched) for place in self.places)

    def change(self, group: str, matched: Mapping[str, int]) -> float:
        """What one matched slot less of a group adds."""
        fewer = {**matched, group: matched[group] - 1}
        touched = [place for place in self.places if group in place.groups]
        return sum(self._of(place, fewer) - self._of(place, matched) for place in touched)

    def of_one_member(self) -> float:
        """The price of the first member, which is that of a network with every unit matched."""
        return self.total({group: counts[0] for group, counts in self.sizes.items()})

    def _of(self, place: Place, matched: Mapping[str, int]) -> float:
        if len(place.groups) != 2:
            units = 1
            for group in place.groups:
                units *= matched[group] + sum(self._alone(group, matched))
            return place.price * units
        one, two = place.groups
        first, second = self._alone(one, matched), self._alone(two, matched)
        shared = matched[one] * (matched[two] + sum(second)) + sum(first) * matched[two]
        return place.price * (shared + sum(a * b for a, b in zip(first, second, strict=True)))

    def _alone(self, group: str, matched: Mapping[str, int]) -> list[int]:
        return [max(0, size - matched[group]) for size in self.sizes[group]]


def taken_apart(costs: Costs, matching: Matching, limits: Sequence[tuple[Prices, float]]) -> Matching:
    """The matching with its worst slots taken apart, as many as the limits (prices, multiple of one member) allow.

    Slots come apart in one order for all limits: next is the slot that lowers the relative cost of its group most for
    what it adds to the first price. Raises ValueError if even with every unit matched a limit is exceeded.
    """
    universe, order, slots = matching.universe, {}, {}
    for group, table in universe.slots.items():
        cost = costs.visit(group, universe).within(table, range(len(table)))
        ranked = torch.argsort(cost, stable=True)
        slots[group], order[group] = table[:, ranked], (cost[ranked] / _scale(costs, group)).tolist()
    matched = {group: table.shape[1] for group, table in slots.items()}
    allowed = [share * prices.of_one_member() for prices, share in limits]
    if any(prices.total(matched) > most * (1 + 1e-9) for (prices, _), most in zip(limits, allowed, strict=True)):
        raise ValueError("members are wider than the first one, so that even one network exceeds the budget: raise it")
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
