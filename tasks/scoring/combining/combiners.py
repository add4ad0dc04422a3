"""Combiners as values: `combiner.fit(logits, labels)` on validation gives a function from logits to log-probabilities.

A combiner is a frozen value with one method and its source. The registry below gives the command line its names, the
reports their rows and the property tests their members.
"""

import math
from collections.abc import Callable
from typing import ClassVar, TypeAlias

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from amalgam.tasks.scoring.combining.mixture import (
    MEAN_OF,
    Mixture,
    family_members,
    fitted_logit_shares,
    fitted_shares,
    fitted_temperature,
    nll,
    shares,
)

Combination: TypeAlias = Callable[[Tensor], Tensor]
"""From logits (members, examples, classes) to log-probabilities (examples, classes)."""


class Combiner(BaseModel):
    """Makes one prediction of several members' logits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def fit(self, logits: Tensor, labels: Tensor) -> Combination:
        """The combination for members with these validation logits (members, examples, classes) and labels.

        Raises ValueError for shapes that do not fit each other and for logits that are not finite.
        """
        check(logits, labels)
        return self._fit(logits.double(), labels)

    def _fit(self, logits: Tensor, labels: Tensor) -> Combination:
        raise NotImplementedError


class _Mean(Combiner):
    """A mean that fits nothing."""

    mean_of: ClassVar[MEAN_OF]
    weights: tuple[float, ...] = ()
    """One per member, of any provider of weights for merges; none: equal weights."""

    def _fit(self, logits: Tensor, labels: Tensor) -> Mixture:
        if self.weights and len(self.weights) != len(logits):
            raise ValueError(f"give one weight per member: {len(logits)} members, {len(self.weights)} weights")
        return Mixture(self.weights or _equal(logits), self.mean_of)


class MeanLogits(_Mean):
    """The (weighted) mean of logits."""

    mean_of: ClassVar[MEAN_OF] = "logits"


class MeanProbabilities(_Mean):
    """The (weighted) mean of probabilities."""

    mean_of: ClassVar[MEAN_OF] = "probabilities"


class TemperatureScaled(Combiner):
    """The mean of probabilities, each member at the temperature fitted on validation (Guo et al. 2017)."""

    def _fit(self, logits: Tensor, labels: Tensor) -> Mixture:
        return Mixture(_equal(logits), temperatures=tuple(fitted_temperature(each, labels) for each in logits))


class FittedProbabilities(Combiner):
    """The mixture of probabilities of greatest validation likelihood, one weight per member."""

    def _fit(self, logits: Tensor, labels: Tensor) -> Mixture:
        return Mixture(shares(fitted_shares(logits.softmax(2), labels)))


class FittedLogits(Combiner):
    """The weighted mean of logits of greatest validation likelihood; never worse there than equal weights."""

    def _fit(self, logits: Tensor, labels: Tensor) -> Mixture:
        candidates = (
            Mixture(_equal(logits), "logits"),
            Mixture(shares(fitted_logit_shares(logits, labels)), "logits"),
        )
        return min(candidates, key=lambda mixture: nll(mixture(logits), labels))


class AwareNet(Combiner):
    """Two tiers: the mean of probabilities inside a family, fitted weights across families (Salman et al. 2025).

    A member that is added to a family, be it a copy, leaves the family's share as it is.
    """

    families: tuple[str, ...] = Field(min_length=1)
    """The family of each member, such as its architecture."""

    def _fit(self, logits: Tensor, labels: Tensor) -> Mixture:
        if len(self.families) != len(logits):
            raise ValueError(f"families must name one for each of {len(logits)} members, got {self.families}")
        places = family_members(self.families)
        probabilities = logits.softmax(2)
        means = torch.stack([probabilities[members].mean(0) for members in places.values()])
        of_family = dict(zip(places, fitted_shares(means, labels).tolist(), strict=True))
        weights = [of_family[family] / len(places[family]) for family in self.families]
        return Mixture(shares(torch.tensor(weights, dtype=torch.float64)))


class EntropyConfidence(Combiner):
    """Each example weighs members by one minus their normalised entropy (Manni et al. 2025, SPARSE)."""

    temperature: float = Field(default=2.0, gt=0)
    """What logits are divided by before their entropy is taken."""

    def _fit(self, logits: Tensor, labels: Tensor) -> Combination:
        return self.combine

    def combine(self, logits: Tensor) -> Tensor:
        """Log-probabilities (examples, classes) of logits (members, examples, classes); nothing is fitted."""
        log_probabilities = (logits.double() / self.temperature).log_softmax(2)
        confidence = self.confidence(log_probabilities)
        weights = confidence.clamp_min(torch.finfo(torch.float64).eps)  # all uniform: the mean
        return torch.logsumexp(log_probabilities + (weights / weights.sum(0)).log().unsqueeze(2), 0)

    @staticmethod
    def confidence(log_probabilities: Tensor) -> Tensor:
        """One minus the entropy over its maximum, in [0, 1]: 1 where one class is certain, 0 where all are equal."""
        entropy = -(log_probabilities.exp() * log_probabilities.clamp_min(-1e4)).sum(-1)
        return (1 - entropy / math.log(log_probabilities.shape[-1])).clamp(0, 1)


class MajorityVote(Combiner):
    """The share of members whose most probable class it is; ties are shared, unless the mean probability decides."""

    smoothing: float = Field(default=0.5, gt=0)
    """Votes that every class has from the start (of all classes together), so that no likelihood is zero."""

    def _fit(self, logits: Tensor, labels: Tensor) -> Combination:
        return self.combine

    def combine(self, logits: Tensor) -> Tensor:
        """Log-probabilities (examples, classes): votes, in which a part of a vote is spread as the mean probability."""
        votes = torch.nn.functional.one_hot(logits.argmax(2), logits.shape[2]).double().sum(0)
        mean = logits.double().softmax(2).mean(0)
        return ((votes + self.smoothing * mean) / (len(logits) + self.smoothing)).log()


COMBINERS: dict[str, type[Combiner]] = {
    "mean-logits": MeanLogits,
    "mean-probabilities": MeanProbabilities,
    "temperature": TemperatureScaled,
    "fitted-probabilities": FittedProbabilities,
    "fitted-logits": FittedLogits,
    "aware-net": AwareNet,
    "entropy-confidence": EntropyConfidence,
    "majority-vote": MajorityVote,
}


def check(logits: Tensor, labels: Tensor) -> None:
    """Raise ValueError unless logits (members, examples, classes) are finite and labels are classes of theirs."""
    if logits.ndim != 3 or not all(logits.shape) or logits.shape[2] < 2:
        raise ValueError(f"logits must be (members, examples, two or more classes), got {tuple(logits.shape)}")
    if labels.shape != logits.shape[1:2]:
        raise ValueError(f"labels must be ({logits.shape[1]},), one per example, got {tuple(labels.shape)}")
    if not torch.isfinite(logits).all():
        place = int(torch.nonzero(~torch.isfinite(logits).flatten(1).all(1))[0])
        raise ValueError(f"the logits of member {place} are not all finite")
    if labels.min() < 0 or labels.max() >= logits.shape[2]:
        raise ValueError(
            f"labels must be in [0, {logits.shape[2] - 1}], got {int(labels.min())} to {int(labels.max())}"
        )


def _equal(logits: Tensor) -> tuple[float, ...]:
    return (1 / len(logits),) * len(logits)
