"""Match the units of K members: coordinate descent over groups, one k-cardinality assignment at a time.

Every group has a universe of slots (`cost.Universe`). With two members a step matches one member's units to the
other's: the k cheapest pairs, exactly (Morelli & Eckstein 2026, partial optimal transport with uniform masses). With
more, members take turns: each is matched to the slots of all others, where a slot costs the sum of all distances
within it, so every step lowers one objective:

    J = sum over groups, matched slots and pairs of members of the squared distances of `cost`

(The alternating scheme of Git Re-Basin's merge-many, with all pairwise distances in place of distances to a mean.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from amalgam.tasks.fusion.assignment import reassigned
from amalgam.tasks.fusion.cost import ActivationCost, State, Universe, WeightCost
from amalgam.tasks.fusion.coupling import Coupling
from amalgam.tasks.tracing.axes import Axes, Blocks

IMPROVEMENT = 1e-9  # a smaller relative gain is rounding noise; taking it could make the descent run in circles


@dataclass(frozen=True)
class Matching:
    """The universe that a descent ended in, and how it got there."""

    universe: Universe
    sizes: Mapping[str, tuple[int, ...]]
    """Units of each member, per group."""
    objective: tuple[float, ...] = ()
    """J after each sweep that was made."""

    def couplings(self) -> dict[str, Coupling]:
        """Group -> coupling, for `merge`."""
        return {g: Coupling.from_matches(self.universe.matched(g), self.sizes[g]) for g in self.universe.slots}


@dataclass(frozen=True)
class DirectMatching(Matching):
    """Couplings that were found without matching slots; the universe has units in their own order."""

    found: Mapping[str, Coupling] = field(default_factory=dict)

    def couplings(self) -> dict[str, Coupling]:
        return dict(self.found)


@dataclass(frozen=True)
class Costs:
    """The costs a matching reads: weights, activations, or activations rescaled to count as much as weights."""

    axes: Axes
    states: Sequence[State]
    weights: WeightCost | None
    activations: ActivationCost | None

    def visit(self, group: str, universe: Universe) -> "GroupCost":
        """The costs of one group, the others aligned by `universe`."""
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
class GroupCost:
    """What slots of one group cost: sums over members, so that no pair of them is computed twice."""

    group: str
    costs: Costs
    rows: Sequence[Tensor] = ()
    norms: Sequence[Tensor] = ()

    def slots(self, slots: Tensor, mover: int, others: Sequence[int]) -> Tensor:
        """(units of mover, slots) float64: what a slot costs with that unit in it, beside the units of `others`."""
        total = self.within(slots, others)[None, :]
        if self.costs.weights:
            # sum_k |x - y_k|^2 = K |x|^2 + sum_k |y_k|^2 - 2 <x, sum_k y_k>: one product for all others together.
            rows, norms = (values.sum(0) for values in self._in_slots(slots, others))
            own = len(others) * self.norms[mover]
            total = total + (own[:, None] + norms[None, :] - 2 * self.rows[mover] @ rows.T).double().cpu()
        if self.costs.activations:
            rate = self.costs.rate(self.group)
            pairs = (self.costs.activations.pair(self.group, mover, k).cpu()[:, slots[k]] for k in others)
            total = total + rate * torch.stack(list(pairs)).sum(0)
        return total

    @cached_property
    def _flat(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows and norms of all members' units, one after the other, and where each member begins, (members, 1)."""
        starts = np.cumsum([0, *[len(rows) for rows in self.rows[:-1]]])
        return torch.cat(list(self.rows)), torch.cat(list(self.norms)), torch.from_numpy(starts)[:, None]

    def _in_slots(self, slots: Tensor, members: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Rows (members, slots, entries) and norms (members, slots) of the units in each slot, in one gather."""
        rows, norms, starts = self._flat
        units = (slots + starts)[list(members)].to(rows.device)
        return rows[units], norms[units]

    def within(self, slots: Tensor, members: Sequence[int]) -> Tensor:
        """(slots,) float64: sum of the distances between the units of `members` in each slot."""
        total = torch.zeros(slots.shape[1], dtype=torch.float64)
        if self.costs.weights and len(members) > 1:
            rows, norms = self._in_slots(slots, members)
            # sum_{a<b} |y_a - y_b|^2 = (K - 1) sum_a |y_a|^2 - (|sum_a y_a|^2 - sum_a |y_a|^2).
            products = rows.sum(0).square().sum(1) - rows.square().sum((0, 2))
            total += ((len(members) - 1) * norms.double().sum(0) - products.double()).cpu()
        return total + self.costs.activation_between(self.group, slots, members) if self.costs.activations else total


def identity(axes: Axes, states: Sequence[State]) -> Matching:
    """Unit i with unit i of every member: what naive averaging does.

    Raises ValueError if members differ in width.
    """
    sizes = axes.sizes_of_all(states)
    for group, counts in sizes.items():
        if len(set(counts)) > 1:
            raise ValueError(f"members have {counts} units in {group}: naive averaging needs equal widths")
    slots = {group: torch.arange(counts[0]).expand(len(states), -1) for group, counts in sizes.items()}
    return Matching(Universe(slots, {group: counts[0] for group, counts in sizes.items()}), sizes)


def descend(costs: Costs, alpha: float, *, seed: int, max_sweeps: int, start: Universe | None = None) -> Matching:
    """Match all but a share `alpha` of each group, until no assignment changes or `max_sweeps` is reached.

    Without `start` the first sweep is greedy: groups in the order of computation, each reading only those before it,
    so that the result does not depend on the order of units in any member.
    """
    sizes = costs.axes.sizes_of_all(costs.states)
    num_matched = {group: round((1 - alpha) * min(counts)) for group, counts in sizes.items()}
    universe = _cheapest_first(costs, start, num_matched) if start else _greedy(costs, sizes, num_matched)
    generator, history = np.random.default_rng(seed), [objective(costs, universe)]
    settled: set[str] = set()
    for _ in range(max_sweeps):
        before = universe
        for group in map(str, generator.permutation(list(sizes))):
            if group not in settled:
                improved = _improve(costs, universe, group, sizes[group])
                settled = _settled(costs, settled, group, improved is not universe)
                universe = improved
        history.append(objective(costs, universe))
        if universe is before:
            break
    return Matching(universe, sizes, tuple(history))


def objective(costs: Costs, universe: Universe) -> float:
    """J of the module docstring, for the matched slots of `universe`."""
    total = costs.weights.objective(universe) if costs.weights else 0.0
    for group in universe.slots if costs.activations else ():
        members = range(len(costs.states))
        total += float(costs.activation_between(group, universe.matched(group), members).sum())
    return total


def _greedy(costs: Costs, sizes: Mapping[str, tuple[int, ...]], num_matched: dict[str, int]) -> Universe:
    universe = Universe({}, num_matched)
    for group, counts in sizes.items():
        order = sorted(range(len(counts)), key=lambda k: counts[k])
        slots = torch.full((len(counts), min(counts)), -1)
        slots[order[0]] = torch.arange(min(counts))
        visit = costs.visit(group, universe)
        for position, mover in enumerate(order[1:], 1):
            cost = visit.slots(slots, mover, order[:position])
            slots = reassigned(slots, cost, mover, num_matched[group])[0]
        universe = replace(universe, slots={**universe.slots, group: slots})
    return universe


def _cheapest_first(costs: Costs, start: Universe, num_matched: dict[str, int]) -> Universe:
    """The start's slots, cheapest first, so that the worst-matched are the ones that stay alone."""
    slots = {}
    for group, old in start.slots.items():
        cost = costs.visit(group, start).within(old, range(len(old)))
        slots[group] = old[:, torch.argsort(cost, stable=True)]
    return Universe(slots, num_matched)


def _improve(costs: Costs, universe: Universe, group: str, sizes: tuple[int, ...]) -> Universe:
    """Each member in turn takes its best places in the group's universe, if that lowers the objective."""
    num_members = len(sizes)
    # A pair matches the wider member against all units of the other: that one step is already the exact optimum.
    movers = range(num_members) if num_members > 2 else [max(range(num_members), key=lambda k: sizes[k])]
    quadratic = costs.weights is not None and costs.weights.ties_itself(group)
    visit = costs.visit(group, universe)
    for mover in movers if universe.num_matched[group] and num_members > 1 else ():
        visit = costs.visit(group, universe) if quadratic else visit  # its own matching may be what aligns its rows
        slots, others = universe.slots[group], [k for k in range(num_members) if k != mover]
        cost = visit.slots(slots, mover, others)
        moved, gain = reassigned(slots, cost, mover, universe.num_matched[group])
        if gain <= IMPROVEMENT * float(cost.abs().mean()):
            continue
        candidate = replace(universe, slots={**universe.slots, group: moved})
        if not quadratic or objective(costs, candidate) < objective(costs, universe):
            universe = candidate
    return universe


def _settled(costs: Costs, settled: set[str], group: str, has_moved: bool) -> set[str]:
    """The groups that another visit would leave as they are, after a visit of `group`: their costs have not changed."""
    if not has_moved:  # the same costs would give the same matching again
        return settled | {group}
    # A matching enters the cost of every group that shares a parameter with it: those must be visited again. The group
    # itself need not, if its step was the exact optimum given the others: with two members it is one assignment, unless
    # a parameter has the group on two axes, which makes the cost quadratic in the matching that was just changed.
    touched = {axis.group for name, _ in costs.axes.parameters_of(group) for axis in costs.axes.of[name] if axis}
    is_exact = len(costs.states) == 2 and not (costs.weights and costs.weights.ties_itself(group))
    return (settled - touched) | ({group} if is_exact else set())


def costs_of(axes: Axes, states: Sequence[State], activations: ActivationCost | None, weights: bool) -> Costs:
    """The costs of a matching; weights cover every floating tensor that is not a running statistic."""
    blocks = [Blocks({name: _single(t) for name, t in axes.read(state).items()}) for state in states]
    statistics = axes.means | axes.variances
    parameters = [name for name in axes.of if name not in statistics and blocks[0][name].is_floating_point()]
    return Costs(axes, blocks, WeightCost(axes, blocks, parameters) if weights else None, activations)


def _single(tensor: Tensor) -> Tensor:
    """Half precision overflows when squared."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
