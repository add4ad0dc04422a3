"""A straightforward numpy solver of partial fusion for two members, the yardstick of `benchmarks.methods.fusion`.

It does what the engine does (greedy first pass, then coordinate descent until nothing improves), but says it plainly:
both members are laid out in the fused network's coordinates, zeros where they have no unit, and the distance of every
two units is taken entry by entry, anew at every visit.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from amalgam.tasks.fusion.coupling import Coupling
from amalgam.tasks.tracing.axes import OUTPUT, Axes, Axis

Pairs = NDArray[np.int64]
"""(2, pairs): matched units of both members."""
State = Mapping[str, NDArray]
IMPROVEMENT = 1e-9  # a smaller relative gain is rounding noise


def naive_matching(axes: Axes, members: Sequence[State], alpha: float) -> dict[str, Pairs]:
    """The pairs of every group. `members` are the parameters alone, without running statistics."""
    couplings: dict[str, Coupling] = {}
    pairs: dict[str, Pairs] = {}
    sizes = {group: _sizes(axes, members, group) for group in axes.groups}
    changed = True
    while changed:
        changed = False
        for group in axes.groups:
            cost = _distances(axes, members, group, couplings)
            found = _cheapest_pairs(cost, round((1 - alpha) * min(sizes[group])))
            if group not in pairs or _total(cost, found) < _total(cost, pairs[group]) - IMPROVEMENT * cost.mean():
                pairs[group], changed = found, True
                couplings[group] = Coupling.from_matches(torch.from_numpy(found), sizes[group])
    return pairs


def _sizes(axes: Axes, members: Sequence[State], group: str) -> tuple[int, ...]:
    name, index = axes.parameters_of(group)[0]
    axis = axes.of[name][index]
    assert axis is not None
    return tuple(state[name].shape[index] // axis.repeat for state in members)


def _distances(axes: Axes, members: Sequence[State], group: str, couplings: Mapping[str, Coupling]) -> NDArray:
    """(units of the first, units of the second): squared distance over every parameter whose other axes are known."""
    total = np.zeros(_sizes(axes, members, group))
    for name, index in axes.parameters_of(group):
        others = [axis.group for i, axis in enumerate(axes.of[name]) if axis and i != index]
        if name in members[0] and all(other == OUTPUT or other in couplings for other in others):
            rows = [_rows(state[name], axes.of[name], index, couplings, k) for k, state in enumerate(members)]
            for i, row in enumerate(rows[0]):
                total[i] += np.square(rows[1] - row).sum(1)
    return total


def _rows(
    values: NDArray, entries: Sequence[Axis | None], index: int, couplings: Mapping[str, Coupling], member: int
) -> NDArray:
    """(units, everything else) of one parameter, the other axes in the fused network's coordinates."""
    for i, axis in enumerate(entries):
        if axis and i != index and axis.group != OUTPUT:
            blocks = np.moveaxis(values, i, 0).reshape(-1, axis.repeat, *np.delete(values.shape, i))
            wide = np.zeros((couplings[axis.group].width, *blocks.shape[1:]))
            wide[couplings[axis.group].fused_unit[member].numpy()] = blocks
            values = np.moveaxis(wide.reshape(-1, *blocks.shape[2:]), 0, i)
    axis = entries[index]
    assert axis is not None
    return np.moveaxis(values, index, 0).reshape(values.shape[index] // axis.repeat, -1)


def _cheapest_pairs(cost: NDArray, num_pairs: int) -> Pairs:
    """The disjoint pairs of least total cost: an assignment in which all others meet dummies, at no cost."""
    rows, columns = cost.shape
    square = np.zeros((rows + columns - num_pairs,) * 2)
    square[:rows, :columns] = cost
    square[rows:, columns:] = np.inf
    found = np.stack(linear_sum_assignment(square))
    return found[:, (found[0] < rows) & (found[1] < columns)]


def _total(cost: NDArray, pairs: Pairs) -> float:
    return float(cost[pairs[0], pairs[1]].sum())
