"""Did something fall? One number of tonight against a pinned baseline and against the nights before.

Nights differ by their seeds alone, so a fall is distinguished from noise by how much earlier nights differ from each
other. The noise is measured by differences of successive nights, robustly: neither a slow decline nor one bad night
enlarges it. Importable without torch.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, NonNegativeFloat

from amalgam.tasks.scoring.seeds import t_quantile

CONFIDENCE = 0.995  # one-sided: one false alarm in 200 nights of a metric that nothing happened to
FEWEST = 3  # nights before noise and trends are spoken of
FEWEST_OF_TREND = 6
NORMAL = 1.4826  # median absolute deviation to standard deviation, of normal numbers
UNITS = {"pt": 0.01, "%": 0.01, "": 1.0}
Kind = Literal["regression", "decline", "improvement", "steady", "new"]


class Tolerance(BaseModel):
    """A fall that does not matter: `accuracy=0.5pt` is half a percentage point, `nll=2%` relative, `ms=3` absolute."""

    model_config = ConfigDict(frozen=True)
    metric: str
    """A metric, or the first part of its name: `accuracy` is for `accuracy/alpha 0.4` too."""
    amount: NonNegativeFloat
    is_relative: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `METRIC=NUMBER`, with `pt` or `%` behind it or without. Raises ValueError for anything else."""
        metric, equals, amount = text.rpartition("=")
        unit = next(unit for unit in UNITS if amount.endswith(unit))
        try:
            number = float(amount.removesuffix(unit))
        except ValueError:
            number = math.nan
        if not equals or not metric or not (math.isfinite(number) and number >= 0):
            raise ValueError(f"a tolerance is METRIC=NUMBER, such as accuracy=0.5pt or nll=2%, got {text!r}")
        return cls(metric=metric, amount=number * UNITS[unit], is_relative=unit == "%")

    def covers(self, metric: str) -> bool:
        """Whether it is for this metric."""
        return metric == self.metric or metric.startswith(f"{self.metric}/")

    def of(self, level: float) -> float:
        """The fall from this level that does not matter."""
        return self.amount * abs(level) if self.is_relative else self.amount


@dataclass(frozen=True)
class Finding:
    """What is to say of one metric of tonight."""

    metric: str
    kind: Kind
    value: float
    level: float | None
    """What it is compared with: the baseline, or the median of the nights before."""
    fall: float
    """How much worse than that, in the direction in which less is worse."""
    noise: float
    """Standard deviation of a night; 0 where it is unknown."""
    since: int | None = None
    """The night, counted from the oldest given, since which it is so."""

    @property
    def is_bad(self) -> bool:
        """Whether it makes the night a regression."""
        return self.kind in ("regression", "decline")


def is_better_when_lower(metric: str) -> bool:
    """By the metric's name: losses, errors and costs are."""
    words = ("nll", "loss", "error", "calibration_error", "latency", "ms", "seconds", "bytes", "fvu")
    return any(part in words or part.endswith(("_error", "_loss", "_ms")) for part in metric.split("/"))


def judge(
    metric: str,
    value: float,
    before: Sequence[float],
    baseline: float | None,
    tolerance: Tolerance | None,
    chance: float = 0.0,
) -> Finding:
    """What is to say of a value, of those of the nights before, oldest first, and of the baseline, if there is one.

    A fall counts if it is larger than the tolerance and than noise explains. A slow decline is a fall of the line
    through the nights that is both. Of fewer than three nights the noise is `chance`, the standard deviation of a night
    as its seeds or test images show it; 0 if that is unknown.
    """
    sign = -1.0 if is_better_when_lower(metric) else 1.0
    nights = [sign * number for number in before]
    noise = night_noise(nights) if len(nights) >= FEWEST else chance
    levels = [(sign * baseline, math.sqrt(2))] if baseline is not None else []
    if nights:
        levels.append((statistics.median(nights), math.sqrt(1 + math.pi / 2 / len(nights))))
    if not levels:
        return Finding(metric, "new", value, None, 0.0, 0.0)
    level, spread = max(levels, key=lambda pair: pair[0] - _margin(pair, noise, len(nights), tolerance))
    margin = _margin((level, spread), noise, len(nights), tolerance)
    fall = level - sign * value
    if fall > margin:
        return Finding(
            metric, "regression", value, sign * level, fall, noise, _since([*nights, sign * value], level - margin)
        )
    if decline := _decline([*nights, sign * value], noise, tolerance.of(level) if tolerance else 0.0):
        return Finding(metric, "decline", value, sign * nights[0], decline, noise, 0)
    return Finding(metric, "improvement" if -fall > margin else "steady", value, sign * level, fall, noise)


def night_noise(nights: Sequence[float]) -> float:
    """Standard deviation of a night, of the median absolute difference of successive ones; 0 for fewer than three."""
    if len(nights) < FEWEST:
        return 0.0
    steps = [abs(late - early) for early, late in pairwise(nights)]
    return NORMAL * statistics.median(steps) / math.sqrt(2)


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What differs between two nights' data, code and packages, as `name: old -> new`."""
    names = sorted(before.keys() | now.keys())
    return [
        f"{name}: {before.get(name, 'none')} -> {now.get(name, 'none')}"
        for name in names
        if before.get(name) != now.get(name)
    ]


def _margin(level: tuple[float, float], noise: float, num_nights: int, tolerance: Tolerance | None) -> float:
    """The fall from a level that noise or the tolerance explains."""
    few = num_nights < FEWEST  # the noise is then not taken from these nights: no degrees of freedom to count
    sure = statistics.NormalDist().inv_cdf(CONFIDENCE) if few else t_quantile(num_nights - 1, CONFIDENCE)
    if tolerance is None and not noise:
        return math.inf  # nothing is known of what may be expected
    return max(sure * noise * level[1], tolerance.of(level[0]) if tolerance else 0.0)


def _since(nights: Sequence[float], bound: float) -> int:
    """The first of the nights, the last one included, since which all lie below the bound."""
    first = len(nights) - 1
    while first and nights[first - 1] < bound:
        first -= 1
    return first


def _decline(nights: Sequence[float], noise: float, tolerated: float) -> float:
    """By how much the line of least squares falls over the nights, if that is significant and not tolerated; else 0."""
    count = len(nights)
    if count < FEWEST_OF_TREND or not noise:
        return 0.0
    slope = statistics.linear_regression(range(count), nights).slope
    # The slope's deviation under noise alone: sigma / sqrt(sum of squared distances from the middle night).
    deviation = noise / math.sqrt(count * (count**2 - 1) / 12)
    fall = -slope * (count - 1)
    return fall if -slope > t_quantile(count - 2, CONFIDENCE) * deviation and fall > tolerated else 0.0
