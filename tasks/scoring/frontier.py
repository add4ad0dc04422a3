"""Who is ahead at equal in-distribution accuracy: two frontiers, interpolated and resampled together.

A method's networks, from plain fine-tuning to its largest strength, are the corners of a line in the plane of
in-distribution and shifted accuracy. What the line reaches at x is the best shifted accuracy of its points that have
in-distribution accuracy x or more: a comparison does not hang on which strengths were tried, as long as the lines are
close to those of finer grids. Shapes: r rows (the value, each seed, each resample), p points of a line.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from amalgam.tasks.scoring.comparing import HOME, Difference, PooledAccuracies
from amalgam.tasks.scoring.metrics import Estimate
from amalgam.tasks.scoring.seeds import over_seeds

Key = TypeVar("Key", bound=Hashable)
COLUMNS = 33  # places at which the distance of two frontiers is measured to integrate it


def reached(home: Tensor, shift: Tensor, at: Tensor) -> Tensor:
    """The best shifted accuracy on lines through (home, shift), (r, p) each, at accuracies of at least `at`, (r,).

    Minus infinity where a line does not reach so far.
    """
    at = at[:, None]
    # The best point at accuracy x or more is a corner, or lies where a segment crosses x.
    corners = shift.where(home >= at, -torch.inf).amax(1)
    (left, right), (low, high) = ((points[:, :-1], points[:, 1:]) for points in (home, shift))
    share = ((at - left) / (right - left).where(left != right, 1.0)).clamp(0, 1)
    crossings = (low + share * (high - low)).where((left - at) * (right - at) < 0, -torch.inf)
    return torch.cat([corners[:, None], crossings], 1).amax(1)


@dataclass(frozen=True)
class Lines(Generic[Key]):
    """Two methods, each as its networks in order of strength, and the network at whose accuracy they are compared."""

    pooled: PooledAccuracies[Key]
    ours: Sequence[Key]
    theirs: Sequence[Key]
    chosen: Key
    home: str = HOME
    """Role of the accuracy that is made equal."""

    @property
    def at(self) -> float:
        """The in-distribution accuracy of the comparison: that of `chosen`, or the most that both methods reach."""
        return self._at[0].item()

    def difference(self, role: str) -> Difference:
        """Ours minus theirs at equal in-distribution accuracy."""

        def gap(mine: tuple[Tensor, Tensor], its: tuple[Tensor, Tensor]) -> Tensor:
            at = self._at
            return reached(*mine, at) - reached(*its, at)

        return self._difference(role, gap)

    def mean_gap(self, role: str) -> Difference | None:
        """The area between both frontiers divided by its width: their mean distance where both have networks.

        None if they share no in-distribution accuracy.
        """
        low, high = self._range
        if not high[0] > low[0]:
            return None
        low = torch.minimum(low, high)  # on a resample they may share none
        steps = torch.linspace(0, 1, COLUMNS, dtype=torch.float64)

        def gap(mine: tuple[Tensor, Tensor], its: tuple[Tensor, Tensor]) -> Tensor:
            # The last column is a hair inside, as rounding could put it beyond the end of a line.
            columns = [low + (high - low) * step.clamp(max=1 - 1e-9) for step in steps]
            gaps = torch.stack([reached(*mine, at) - reached(*its, at) for at in columns])
            return torch.trapezoid(gaps, steps, dim=0)

        return self._difference(role, gap)

    def _difference(
        self, role: str, gap: Callable[[tuple[Tensor, Tensor], tuple[Tensor, Tensor]], Tensor]
    ) -> Difference:
        mine, its = ((self._rows(self.home, keys), self._rows(role, keys)) for keys in (self.ours, self.theirs))
        found, seeds = gap(mine, its), self._num_seeds
        by_seed = found[1 : 1 + seeds].tolist()
        low, high = Estimate(found[0].item(), found[1 + seeds :]).interval()
        return Difference(found[0].item(), low, high, over_seeds(by_seed), sum(lead > 0 for lead in by_seed))

    @property
    def _num_seeds(self) -> int:
        return len(self.pooled.by_seed[self.home][self.chosen])

    def _rows(self, role: str, keys: Sequence[Key]) -> Tensor:
        """The accuracies of some networks: values, then those of each seed, then those on each resample, (r, p)."""
        estimates, by_seed = self.pooled.by_role[role], self.pooled.by_seed[role]
        columns = [
            torch.cat([torch.tensor([estimates[key].value, *by_seed[key]], dtype=torch.float64), estimates[key].draws])
            for key in keys
        ]
        return torch.stack(columns, 1)

    @property
    def _range(self) -> tuple[Tensor, Tensor]:
        mine, its = (self._rows(self.home, keys) for keys in (self.ours, self.theirs))
        return torch.maximum(mine.amin(1), its.amin(1)), torch.minimum(mine.amax(1), its.amax(1))

    @property
    def _at(self) -> Tensor:
        return torch.minimum(self._rows(self.home, [self.chosen])[:, 0], self._range[1])
