"""Scores of predictions and their uncertainty: official metrics, bootstrap intervals, paired differences.

Every metric reads how often each example counts: once each for its value, as often as drawn for the bootstrap. Shapes:
n examples, weights (draws, n), values (draws,).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from amalgam.tasks.scoring.seeds import LEVEL

DRAWS = 1000  # resamples of a bootstrap: the ends of a 95 % interval are then each drawn 25 times over
CALIBRATION_BINS = 15  # as in Guo et al. (2017)
IGNORED_GROUP = "Other"  # as WILDS has it, the worst region is not sought among images of no known region
NO_GROUP = -1
WEIGHTS_AT_ONCE = 2**23  # entries of weights in memory, 64 MiB


@dataclass(frozen=True)
class Predictions:
    """What one network predicts for each example of one test set."""

    ids: Tensor
    """Positions in the test set, int64, (n,)."""
    labels: Tensor
    """True classes, int64, (n,)."""
    classes: Tensor
    """Predicted classes, int64, (n,)."""
    confidence: Tensor
    """Probability of the predicted class, float32, (n,)."""
    nll: Tensor
    """Minus the log-probability of the true class in nats, float32, (n,)."""
    groups: Tensor
    """Number of the group, such as the region, that an example belongs to, int64, (n,); -1 of none."""
    group_names: tuple[str, ...] = ()
    """What each group is called."""
    sources: Tensor | None = None
    """Numbers of what each example was made from, int64, (n, sources); None where every example is its own."""

    def __post_init__(self) -> None:
        lengths = {len(column) for column in self.columns.values()}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(f"predictions are columns of one length, at least 1, got lengths {sorted(lengths)}")
        if int(self.groups.max()) >= len(self.group_names):
            raise ValueError(f"group {int(self.groups.max())} has no name: there are {len(self.group_names)}")

    @property
    def columns(self) -> dict[str, Tensor]:
        """Every column by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor, ids: Tensor) -> "Predictions":
        """What logits (n, classes) predict, on the CPU; examples are of no group.

        Of equal logits the first class is predicted.
        """
        log_probabilities = logits.double().log_softmax(1)
        best, classes = log_probabilities.max(1)
        nll = -log_probabilities.gather(1, labels[:, None]).squeeze(1)
        # Rounding may leave a certain class a little above probability 1.
        confidence = best.exp().clamp(max=1).float().cpu()
        groups = torch.full((len(ids),), NO_GROUP)
        return cls(ids.cpu(), labels.cpu(), classes.cpu(), confidence, nll.float().cpu(), groups)


Metric = Callable[[Predictions, Tensor], Tensor]
"""Predictions and weights (draws, n) to values (draws,)."""


def accuracy(predictions: Predictions, weights: Tensor) -> Tensor:
    """Share of examples whose class is predicted."""
    return weights @ _hits(predictions) / weights.sum(1)


def macro_f1(predictions: Predictions, weights: Tensor) -> Tensor:
    """Unweighted mean of F1 over the classes that occur among the labels, as WILDS has it for iWildCam.

    Classes that are predicted but do not occur do not enter, though they cost the others recall.
    """
    num_classes = int(torch.maximum(predictions.labels, predictions.classes).max()) + 1
    # F1 = 2 TP / (2 TP + FP + FN), and the denominator is labels plus predictions of the class.
    right = _by(predictions.labels, weights * _hits(predictions), num_classes)
    occur, predicted = (_by(of, weights, num_classes) for of in (predictions.labels, predictions.classes))
    f1 = 2 * right / (occur + predicted).clamp(min=1)
    return f1.sum(1) / (occur > 0).sum(1)


def worst_group(predictions: Predictions, weights: Tensor) -> Tensor:
    """Lowest accuracy of a group that has examples, "Other" left out, as WILDS has it for the regions of FMoW."""
    counted = [group for group, name in enumerate(predictions.group_names) if name != IGNORED_GROUP]
    if not torch.isin(predictions.groups, torch.tensor(counted, dtype=torch.long)).any():
        raise ValueError("worst_group needs examples with a group, got none: read the test set with its groups")
    # One column more, for examples of no group: -1 is the last.
    places = predictions.groups % (len(predictions.group_names) + 1)
    hits, sizes = (
        _by(places, amount, len(predictions.group_names) + 1)[:, counted]
        for amount in (weights * _hits(predictions), weights)
    )
    return (hits / sizes.clamp(min=1)).where(sizes > 0, torch.inf).amin(1)


def nll(predictions: Predictions, weights: Tensor) -> Tensor:
    """Mean of minus the log-probability of the true class, in nats."""
    return weights @ predictions.nll.double() / weights.sum(1)


def calibration_error(predictions: Predictions, weights: Tensor) -> Tensor:
    """Mean distance between confidence and accuracy over equal bins of confidence (Guo et al. 2017, eq. 3)."""
    bins = (predictions.confidence.double() * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
    excess = _hits(predictions) - predictions.confidence.double()
    return _by(bins, weights * excess, CALIBRATION_BINS).abs().sum(1) / weights.sum(1)


METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "worst_group": worst_group,
    "nll": nll,
    "calibration_error": calibration_error,
}
"""Every metric by name; shares are in [0, 1]."""


def value(metric: Metric, predictions: Predictions) -> float:
    """The metric of the predictions as they are."""
    return metric(predictions, torch.ones(1, len(predictions.ids), dtype=torch.float64)).item()


@dataclass(frozen=True)
class Estimate:
    """A number and how it varies over resamples of the examples."""

    value: float
    draws: Tensor
    """The number on each resample, float64, (draws,)."""

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """The percentile interval that contains a share `level` of the resamples."""
        ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
        low, high = self.draws.quantile(ends).tolist()
        return low, high

    def __sub__(self, other: "Estimate") -> "Estimate":
        """The paired difference from an estimate made from the same examples and seed."""
        return Estimate(self.value - other.value, self.draws - other.draws)


def estimates(metric: Metric, networks: Sequence[Predictions], draws: int = DRAWS, seed: int = 0) -> list[Estimate]:
    """A metric of several networks on the same resamples of one test set, so that differences of draws are paired.

    Raises ValueError unless all were tested on the same examples.
    """
    if not all(same_examples(networks[0], other) for other in networks):
        raise ValueError("a paired difference needs networks tested on the same examples")
    parts = [
        torch.stack([metric(predictions, weights) for predictions in networks])
        for weights in resamples(len(networks[0].ids), draws, seed)
    ]
    values = [value(metric, predictions) for predictions in networks]
    return [Estimate(one, drawn) for one, drawn in zip(values, torch.cat(parts, 1), strict=True)]


def mean_over_sets(test_sets: Sequence[Estimate]) -> Estimate:
    """The unweighted mean of estimates on several test sets, made from one seed.

    Test sets of one size share their resamples: they may show the same objects, and if not, nothing is lost.
    """
    values, draws = [one.value for one in test_sets], [one.draws for one in test_sets]
    return Estimate(sum(values) / len(values), torch.stack(draws).mean(0))


def resamples(count: int, draws: int, seed: int) -> Iterator[Tensor]:
    """How often each of `count` examples is drawn, float64, (some draws, count), until there are `draws`."""
    for part in _resampled(count, draws, seed).split(max(1, WEIGHTS_AT_ONCE // count)):
        yield part.double()


@lru_cache(maxsize=1)  # test sets of one size follow each other, each with many networks
def _resampled(count: int, draws: int, seed: int) -> Tensor:
    """How often each example is drawn, (draws, count); in one byte, for no example is drawn 256 times."""
    generator = torch.Generator().manual_seed(seed)
    every = torch.empty(draws, count, dtype=torch.uint8)
    for drawn in every:
        drawn.copy_(torch.randint(count, (count,), generator=generator).bincount(minlength=count))
    return every


def same_examples(a: Predictions, b: Predictions) -> bool:
    """Whether both are of the same examples, in one order."""
    return torch.equal(a.ids, b.ids) and torch.equal(a.labels, b.labels)


def _hits(predictions: Predictions) -> Tensor:
    return (predictions.labels == predictions.classes).double()


def _by(places: Tensor, amounts: Tensor, num_places: int) -> Tensor:
    """Sums of amounts (draws, n) by place, (draws, num_places)."""
    return amounts.new_zeros(len(amounts), num_places).index_add_(1, places, amounts)
