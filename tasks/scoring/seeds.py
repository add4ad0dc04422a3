"""Means over seeds and their uncertainty, from few seeds. Importable without torch."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95


@dataclass(frozen=True)
class OverSeeds:
    """A number of every seed in short; what needs two seeds is None with one."""

    mean: float
    std: float | None
    """Sample standard deviation."""
    low: float | None
    high: float | None
    """Ends of the 95 % interval of the mean by Student's t, which is valid for two or three seeds."""
    num_seeds: int

    @property
    def is_sure(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def over_seeds(values: Sequence[float]) -> OverSeeds:
    """Mean, deviation and interval of one number per seed, of which there is at least one."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return OverSeeds(mean, None, None, None, len(values))
    std = statistics.stdev(values)
    half = t_quantile(len(values) - 1, (1 + LEVEL) / 2) * std / math.sqrt(len(values))
    return OverSeeds(mean, std, mean - half, mean + half, len(values))


def t_quantile(freedom: int, share: float) -> float:
    """The quantile of Student's t with so many degrees of freedom."""
    from scipy.special import stdtrit  # here, not above: plans need none; scipy.stats would take half a second

    return float(stdtrit(freedom, share))
