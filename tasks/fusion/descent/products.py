"""Products of the units of two members, kept from visit to visit of a descent.

Most of what a visit of a group costs is the product of its units' parameters, aligned by the matchings of the groups
beside it. Late in a descent few of those matches change, so only what those contribute is added and subtracted:

    <x_i, y_j> = sum over matched slots (a, b) of the other axis of <x_i[a], y_j[b]>
"""

import torch
from torch import Tensor

from amalgam.tasks.fusion.cost import Universe, WeightCost

Place = tuple[str, int]


class PairProducts:
    """Tables of products, for groups whose parameters have at most one other group to be matched.

    They are sums in float64 of products in the parameters' precision: earlier visits change their rounding only.
    """

    def __init__(self, weights: WeightCost) -> None:
        self.weights = weights
        self._tables: dict[Place, tuple[Tensor, Tensor]] = {}

    def knows(self, group: str) -> bool:
        """Whether the group is of that kind."""
        alone = all(len(self.weights.beside(*place)) < 2 for place in self.weights.places[group])
        return alone and len(self.weights.states) == 2 and not self.weights.ties_itself(group)

    def of(self, group: str, universe: Universe) -> Tensor:
        """(units of the first member, units of the second) float64: products of their parameters, others aligned."""
        return torch.stack([self._table(place, universe) for place in self.weights.places[group]]).sum(0)

    def _table(self, place: Place, universe: Universe) -> Tensor:
        beside = self.weights.beside(*place)
        if not beside:
            if place not in self._tables:
                self._tables[place] = torch.empty(2, 0), self._product(place, universe)
            return self._tables[place][1]
        slots, group = universe.matched(beside[0]), beside[0]
        old_slots, table = self._tables.get(place, (slots[:, :0], None))
        added, gone = _difference(slots, old_slots), _difference(old_slots, slots)
        if table is None or added.shape[1] + gone.shape[1] >= slots.shape[1]:
            table = self._product(place, universe)
        elif added.numel() + gone.numel():
            now, before = (Universe({group: part}, {group: part.shape[1]}) for part in (added, gone))
            table = table + self._product(place, now) - self._product(place, before)
        self._tables[place] = slots, table
        return table

    def _product(self, place: Place, universe: Universe) -> Tensor:
        one, two = (self.weights.rows_of(member, *place, universe) for member in (0, 1))
        return (one @ two.T).double().cpu()


def _difference(slots: Tensor, others: Tensor) -> Tensor:
    """(2, slots): those pairs that are not among the others."""
    size = int(torch.cat([slots, others], 1).max()) + 1 if slots.numel() + others.numel() else 1
    return slots[:, ~torch.isin(slots[0] * size + slots[1], others[0] * size + others[1])]
