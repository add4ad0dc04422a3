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

import numpy as np
import torch

from amalgam.tasks.fusion.cost import State, Universe
from amalgam.tasks.fusion.coupling import Coupling
from amalgam.tasks.fusion.descent.assignment import reassigned
from amalgam.tasks.fusion.descent.costs import Costs
from amalgam.tasks.fusion.descent.products import PairProducts
from amalgam.tasks.tracing.axes import Axes

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
    products = PairProducts(costs.weights) if costs.weights else None
    settled: set[str] = set()
    for _ in range(max_sweeps):
        before, gained = universe, 0.0
        for group in map(str, generator.permutation(list(sizes))):
            if group not in settled:
                improved, gain = _improve(costs, universe, group, sizes[group], products)
                settled = _settled(costs, settled, group, improved is not universe)
                universe, gained = improved, gained + gain
        history.append(history[-1] - gained)
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
            slots = reassigned(slots, cost, mover, num_matched[group]).slots
        universe = replace(universe, slots={**universe.slots, group: slots})
    return universe


def _cheapest_first(costs: Costs, start: Universe, num_matched: dict[str, int]) -> Universe:
    """The start's slots, cheapest first, so that the worst-matched are the ones that stay alone."""
    slots = {}
    for group, old in start.slots.items():
        cost = costs.visit(group, start).within(old, range(len(old)))
        slots[group] = old[:, torch.argsort(cost, stable=True)]
    return Universe(slots, num_matched)


def _improve(
    costs: Costs, universe: Universe, group: str, sizes: tuple[int, ...], products: PairProducts | None
) -> tuple[Universe, float]:
    """Each member in turn takes its best places in the group's universe, if that lowers the objective; by how much."""
    num_members, gained = len(sizes), 0.0
    # A pair matches the wider member against all units of the other: that one step is already the exact optimum.
    movers = range(num_members) if num_members > 2 else [max(range(num_members), key=lambda k: sizes[k])]
    quadratic = costs.weights is not None and costs.weights.ties_itself(group)
    visit, sums = None, None
    for mover in movers if universe.num_matched[group] and num_members > 1 else ():
        slots, others = universe.slots[group], [k for k in range(num_members) if k != mover]
        if visit is None or quadratic:  # its own matching may be what aligns its rows
            visit = costs.visit(group, universe, products)
            sums = visit.sums(slots, range(num_members)) if costs.weights and num_members > 2 else None
        rest = sums.plus(visit.sums(slots, [mover]), -1) if sums else None
        cost = visit.slots(slots, mover, others, rest)
        move = reassigned(slots, cost, mover, universe.num_matched[group])
        if move.gain <= IMPROVEMENT * float(cost.abs().mean()):
            continue
        candidate, gain = replace(universe, slots={**universe.slots, group: move.slots}), move.gain
        if quadratic:
            gain = objective(costs, universe) - objective(costs, candidate)
        if gain > 0:
            universe, gained = candidate, gained + gain
            sums = rest.ordered(move.order).plus(visit.sums(move.slots, [mover])) if rest else None
    return universe, gained


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
