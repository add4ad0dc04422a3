"""What it costs to let one unit stand for two: squared distances between units of two members.

*Weight cost.* For units i, j of a group, sum over every parameter that touches the group of the squared distance of
their slices, the other axis aligned by the matching at hand; an input that is isolated counts against 0, because the
fused unit would read it from one member only:

    C_ij = |x_i|^2 + |y_j|^2 - 2 <x_i[matched], y_j[matched]>            (method page, 3.2, as one GEMM per parameter)

*Activation cost.* Mean squared distance of two units' activations over a stream of examples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, combinations_with_replacement

import torch
from torch import Tensor

from amalgam.tasks.tracing.axes import Axes

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Universe:
    """A common numbering of the units of all members: slot s of a group has one unit of every member.

    The first `num_matched[g]` slots are fused; the others only remember who would come next.
    """

    slots: Mapping[str, Tensor]
    """Group -> (members, slots) unit indices."""
    num_matched: Mapping[str, int]

    def matched(self, group: str) -> Tensor:
        """(members, matched slots) unit indices."""
        return self.slots[group][:, : self.num_matched[group]]


class WeightCost:
    """Distances between units by the parameters that make and read them.

    `states` are the members' state dicts; `parameters` names what counts (buffers are left out).
    """

    def __init__(self, axes: Axes, states: Sequence[State], parameters: Sequence[str]) -> None:
        self.axes, self.states = axes, [axes.read(state) for state in states]
        self.parameters = [name for name in parameters if any(axes.of[name])]
        self.places = {g: [p for p in axes.parameters_of(g) if p[0] in set(parameters)] for g in axes.groups}
        self._norms = {
            (name, index, member): self._rows(member, name, index, None).square().sum(1)
            for places in self.places.values()
            for name, index in places
            for member in range(len(states))
        }

    def rows(self, group: str, universe: Universe) -> tuple[list[Tensor], list[Tensor]]:
        """Per member, (units, entries) that touch its units, the other groups aligned by `universe`; (units,) norms.

        Units cost `norms[a][i] + norms[b][j] - 2 <rows[a][i], rows[b][j]>` together. Parameters whose other groups the
        universe does not name yet are left out (the first, greedy pass).
        """
        places = [place for place in self.places[group] if self._known(*place, universe)]
        rows, norms = [], []
        for member, state in enumerate(self.states):
            size = self.axes.sizes(state)[group]
            parts = [self._rows(member, name, index, universe) for name, index in places]
            rows.append(torch.cat(parts, 1) if parts else torch.zeros(size, 0))
            norms.append(self._norm(places, member) if places else torch.zeros(size))
        return rows, norms

    def norms(self, group: str) -> list[Tensor]:
        """Per member, (units,): squared norms of all that touches its units, whatever is matched."""
        return [self._norm(self.places[group], member) for member in range(len(self.states))]

    def rows_of(self, member: int, name: str, index: int, universe: Universe) -> Tensor:
        """(units, everything else) of one parameter of a member, the units of other axes in matched slots."""
        return self._rows(member, name, index, universe)

    def beside(self, name: str, index: int) -> list[str]:
        """Groups that are matched on the other axes of a parameter."""
        others = [axis.group for i, axis in enumerate(self.axes.of[name]) if axis and i != index]
        return [group for group in others if group not in self.axes.fixed]

    def objective(self, universe: Universe) -> float:
        """What all matched slots cost together, summed over pairs of members, each parameter counted once."""
        # Over pairs a < b: sum |x_a - x_b|^2 = (K - 1) sum |x_a|^2 - (|sum x_a|^2 - sum |x_a|^2). Norms are of whole
        # slices and enter for each group of a parameter; products enter once, of entries matched on every axis. So a
        # step of one group changes the total by what its slots cost less (`descent.costs.GroupCost`).
        total, num_members = 0.0, len(self.states)
        for group, places in self.places.items():
            for member in range(num_members):
                units = universe.matched(group)[member]
                norms = sum(float(self._norms[n, i, member][units].double().sum()) for n, i in places)
                total += (num_members - 1) * norms
        for name in self.parameters:
            if any(axis and axis.group not in self.axes.fixed for axis in self.axes.of[name]):
                each = [self._matched(member, name, None, universe).double() for member in range(num_members)]
                total -= float(torch.stack(each).sum(0).square().sum()) - sum(float(e.square().sum()) for e in each)
        return total

    def scale(self, group: str) -> float:
        """Mean squared norm of a unit's parameters: the unit in which activation costs are expressed beside these."""
        means = [self._norms[n, i, m].mean() for m in range(len(self.states)) for n, i in self.places[group]]
        return float(sum(means)) / len(self.states)

    def squared_norms(self, group: str, reads: bool) -> list[Tensor]:
        """Per member, (units,): squared norm of the parameters that make its units, or of those that read them."""
        places = [(n, i) for n, i in self.places[group] if getattr(self.axes.of[n][i], "reads", None) is reads]
        return [torch.stack([self._norms[n, i, m] for n, i in places]).sum(0) for m in range(len(self.states))]

    def ties_itself(self, group: str) -> bool:
        """Whether a parameter has this group on two axes, so that its cost is quadratic in the matching."""
        names = [name for name, _ in self.places[group]]
        return len(names) > len(set(names))

    def _known(self, name: str, index: int, universe: Universe) -> bool:
        return all(group in universe.slots for group in self.beside(name, index))

    def _norm(self, places: Sequence[tuple[str, int]], member: int) -> Tensor:
        return torch.stack([self._norms[name, index, member] for name, index in places]).sum(0)

    def _rows(self, member: int, name: str, index: int, universe: Universe | None) -> Tensor:
        """(units, everything else) of one parameter; only matched entries of the other axes if a universe is given."""
        tensor = self._matched(member, name, index, universe) if universe else self.states[member][name]
        axis = self.axes.of[name][index]
        assert axis is not None
        return tensor.movedim(index, 0).reshape(tensor.shape[index] // axis.repeat, -1)

    def _matched(self, member: int, name: str, keep: int | None, universe: Universe) -> Tensor:
        """A parameter with only its matched units, in slot order, on every axis but `keep`."""
        tensor = self.states[member][name]
        for i, axis in enumerate(self.axes.of[name]):
            if axis and i != keep and axis.group not in self.axes.fixed:
                units = universe.matched(axis.group)[member].to(tensor.device)
                tensor = tensor.unflatten(i, (-1, axis.repeat)).index_select(i, units).flatten(i, i + 1)
        return tensor


@dataclass
class ActivationCost:
    """Mean squared distances between units' activations, accumulated over streamed batches.

    Memory is units x units per pair of members and group, whatever the number of examples.
    """

    num_members: int
    within: bool = False
    """Whether products of units of one member are kept too, for `gram`."""
    num_rows: dict[str, int] = field(default_factory=dict)
    squares: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    products: dict[tuple[str, int, int], Tensor] = field(default_factory=dict)
    sums: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    influence: Mapping[str, Tensor] = field(default_factory=dict)
    """Group -> (all units, 2), where a method asks for it (see `methods.pruning.influence`)."""

    def update(self, batch: Sequence[Mapping[str, Tensor]]) -> None:
        """Add one batch: per member, group -> (rows, units), the same examples in the same order.

        Raises ValueError if the members' rows differ in number.
        """
        for group in batch[0]:
            rows = [member[group] for member in batch]
            if len({len(r) for r in rows}) > 1:
                raise ValueError(f"members have different numbers of rows of {group}: {[len(r) for r in rows]}")
            self.num_rows[group] = self.num_rows.get(group, 0) + len(rows[0])
            for k, r in enumerate(rows):
                _add(self.squares, (group, k), r.square().sum(0))
                _add(self.sums, (group, k), r.sum(0))
            pairs = combinations_with_replacement if self.within else combinations
            for a, b in pairs(range(self.num_members), 2):
                _add(self.products, (group, a, b), rows[a].T @ rows[b])

    def between(self, group: str, one: int, two: int, units: Tensor) -> Tensor:
        """(slots,): mean squared distance of unit `units[one, s]` of member one and `units[two, s]` of member two."""
        (a, one), (b, two) = sorted(((units[one], one), (units[two], two)), key=lambda pair: pair[1])
        where = self.products[group, one, two].device
        a, b = a.to(where), b.to(where)
        total = self.squares[group, one][a] + self.squares[group, two][b] - 2 * self.products[group, one, two][a, b]
        return total.clamp_min(0) / self.num_rows[group]

    def pair(self, group: str, one: int, two: int) -> Tensor:
        """(units of member one, units of member two): mean squared distance of activations.

        Raises ValueError if no batch had the group.
        """
        if group not in self.num_rows:
            raise ValueError(f"there are no activations of {group}, only of {sorted(self.num_rows)}: capture them")
        product = self.products[group, one, two] if one < two else self.products[group, two, one].T
        total = self.squares[group, one][:, None] + self.squares[group, two][None, :] - 2 * product
        return total.clamp_min(0) / self.num_rows[group]

    def gram(self, group: str) -> Tensor:
        """(all units, all units) mean products of activations, members one after the other; for `within` statistics.

        Raises ValueError if no batch had the group, or products within members were not kept.
        """
        if group not in self.num_rows or not self.within:
            raise ValueError(f"there are no products of all units of {group}: pass calibration batches")
        table = [
            [self.products[group, min(a, b), max(a, b)] for b in range(self.num_members)]
            for a in range(self.num_members)
        ]
        rows = [torch.cat([t if a <= b else t.T for b, t in enumerate(row)], 1) for a, row in enumerate(table)]
        return torch.cat(rows).cpu() / self.num_rows[group]

    def deviation(self, group: str, member: int) -> Tensor:
        """(units,): standard deviation of each unit's activation."""
        mean = self.sums[group, member] / self.num_rows[group]
        return (self.squares[group, member] / self.num_rows[group] - mean.square()).clamp_min(0).sqrt().cpu()

    def scale(self, group: str) -> float:
        """Mean squared activation of a unit."""
        means = [self.squares[group, k].mean() for k in range(self.num_members)]
        return float(sum(means)) / self.num_members / self.num_rows[group]


def _add(sums: dict, key: tuple, value: Tensor) -> None:
    sums[key] = sums[key] + value.double() if key in sums else value.double()
