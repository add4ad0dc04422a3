"""Every score of many networks on many test sets as rows, from their predictions alone.

Accuracy and a test set's official metric come with 95 % intervals over examples, and with how far each network is ahead
of the first one (`accuracy_gain`), paired by example.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from amalgam.tasks.scoring.metrics import METRICS, Estimate, Predictions, estimates, mean_over_sets, value
from amalgam.tasks.scoring.results import GAIN, Network, Result

WITHOUT_INTERVAL = ("nll", "calibration_error")  # computed for every set


@dataclass(frozen=True)
class Scores:
    """Of one test set, or the means over several, by metric and then by the name of the network."""

    resampled: Mapping[str, Mapping[str, Estimate]]
    plain: Mapping[str, Mapping[str, float]]


def scores_of(predictions: Mapping[str, Predictions], official: str = "accuracy") -> Scores:
    """The scores of networks on one test set, which may be judged by another metric besides accuracy."""
    networks, every = list(predictions), list(predictions.values())
    return Scores(
        {
            name: dict(zip(networks, estimates(METRICS[name], every), strict=True))
            for name in dict.fromkeys(["accuracy", official])
        },
        {
            name: {network: value(METRICS[name], predictions[network]) for network in networks}
            for name in WITHOUT_INTERVAL
        },
    )


def mean_scores(test_sets: Sequence[Scores]) -> Scores:
    """Unweighted means over test sets, of the metrics that all have."""
    networks = list(test_sets[0].plain[WITHOUT_INTERVAL[0]])
    shared = [metric for metric in test_sets[0].resampled if all(metric in one.resampled for one in test_sets)]
    return Scores(
        {
            metric: {name: mean_over_sets([one.resampled[metric][name] for one in test_sets]) for name in networks}
            for metric in shared
        },
        {
            metric: {name: fmean(one.plain[metric][name] for one in test_sets) for name in networks}
            for metric in WITHOUT_INTERVAL
        },
    )


def score_rows(scores: Scores, networks: Mapping[str, Network], role: str, test_set: str | None) -> Iterator[Result]:
    """A row for every network and metric; `networks` says what the names stand for."""
    for metric, by_network in scores.resampled.items():
        first = next(iter(by_network.values()))
        for name, score in by_network.items():
            for text, number in ((metric, score), (metric + GAIN, score - first)):
                yield Result(networks[name], role, test_set, text, number.value, *number.interval())
    for metric, values in scores.plain.items():
        for name, plain in values.items():
            yield Result(networks[name], role, test_set, metric, plain)
