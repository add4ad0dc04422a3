"""What merging two units costs what reads them: the functional merge error.

If units i and j become their mean, what reads i with weights v_i is off by v_i (h_j - h_i) / 2, and what reads j by
v_j (h_i - h_j) / 2. Biases, or a refit, absorb the mean of these errors; their variances sum to

    C_ij = (|v_i|^2 + |v_j|^2) / 4 * Var(h_i - h_j)

so that units that little depends on may be merged although they differ. Free scales of units are fixed before (see
`gauge`), and the product of activation and outgoing weight does not depend on them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from amalgam.tasks.fusion.cost import ActivationCost, State
from amalgam.tasks.fusion.descent.costs import Costs, costs_of
from amalgam.tasks.fusion.methods.groups import squared_norms
from amalgam.tasks.fusion.methods.method import Cost, Members
from amalgam.tasks.tracing.axes import Axes


@dataclass
class FunctionalCost(ActivationCost):
    """Distances between units' activations as the layers that read them see them."""

    read: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)
    """Group -> per member, (units,): squared norm of the weights that read each unit."""

    @classmethod
    def of(cls, activations: ActivationCost, axes: Axes, states: Sequence[State]) -> "FunctionalCost":
        """The cost from statistics of activations and the members' weights."""
        read = squared_norms(axes, states, reads=True)
        placed = {g: [norms.to(activations.sums[g, k]) for k, norms in enumerate(read[g])] for g in axes.groups}
        return cls(**vars(activations), read=placed)

    def pair(self, group: str, one: int, two: int) -> Tensor:
        """(units of member one, units of member two): the cost of merging them."""
        (mean, read), (other_mean, other_read) = self._unit(group, one), self._unit(group, two)
        variance = super().pair(group, one, two) - (mean[:, None] - other_mean[None, :]).square()
        return variance.clamp_min(0) * (read[:, None] + other_read[None, :]) / 4

    def between(self, group: str, one: int, two: int, units: Tensor) -> Tensor:
        """(slots,): that cost for unit `units[one, s]` of member one and `units[two, s]` of member two."""
        table = self.pair(group, one, two)
        return table[units[one].to(table.device), units[two].to(table.device)]

    def _unit(self, group: str, member: int) -> tuple[Tensor, Tensor]:
        return self.sums[group, member] / self.num_rows[group], self.read[group][member]


def matching_costs(members: Members, cost: Cost) -> Costs:
    """What matching the members' units costs."""
    activations = members.activations if cost != "weights" else None
    if cost == "functional":
        assert activations
        activations = FunctionalCost.of(activations, members.axes, members.states)
    return costs_of(members.axes, members.states, activations, cost in ("weights", "both"))
