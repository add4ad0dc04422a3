"""The scores of many networks on many test sets, from the file of their predictions alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from amalgam.pipeline.store.tables.predictions import read_predictions
from amalgam.tasks.clip.testing.test_sets import VALIDATION
from amalgam.tasks.scoring.metrics import METRICS, Estimate, Predictions, estimates, mean_over_sets, value

Row = dict[str, Any]
PLAIN = ("nll", "calibration_error")  # given of every set, without intervals


@dataclass(frozen=True)
class _Scores:
    """Of one test set or of the means of several, by metric, then by network."""

    resampled: Mapping[str, Mapping[str, Estimate]]
    plain: Mapping[str, Mapping[str, float]]


def path_scores(predictions: Path, official: Mapping[str, str]) -> list[Row]:
    """A row for every test set, network and metric, then for every role the unweighted means over its test sets.

    `official` is the metric of test sets that are not judged by accuracy alone. Both come with 95 % intervals over
    examples, and with how far the network is ahead of the first one, paired by example. Memory is what all networks
    said of one test set.
    """
    rows, by_role = list[Row](), dict[str, list[_Scores]]()
    for name, of_set in groupby(read_predictions(predictions), key=lambda answers: answers.test_set):
        answers = list(of_set)
        found = _scores({each.network: each.predictions for each in answers}, official.get(name, "accuracy"))
        rows += _rows(answers[0].role, name, found)
        by_role.setdefault(answers[0].role, []).append(found)
    for role, sets in by_role.items():
        rows += _rows(role, None, _means(sets))
    return rows


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """The values of rows as `set/NAME/metric@network` and `role/metric@network`.

    Held-out images are the only ones of their role, and go by it alone.
    """
    places = [f"set/{row['test_set']}" if row["test_set"] else row["role"] for row in rows]
    return {
        f"{place}/{row['metric']}@{row['network']}": row["value"]
        for place, row in zip(places, rows, strict=True)
        if row["test_set"] != VALIDATION
    }


def _scores(said: Mapping[str, Predictions], official: str) -> _Scores:
    networks, every = list(said), list(said.values())
    return _Scores(
        {
            name: dict(zip(networks, estimates(METRICS[name], every), strict=True))
            for name in dict.fromkeys(["accuracy", official])
        },
        {name: {network: value(METRICS[name], said[network]) for network in networks} for name in PLAIN},
    )


def _means(sets: Sequence[_Scores]) -> _Scores:
    """Unweighted means over test sets, of the metrics that all have."""
    networks = list(sets[0].plain[PLAIN[0]])
    return _Scores(
        {"accuracy": {each: mean_over_sets([one.resampled["accuracy"][each] for one in sets]) for each in networks}},
        {name: {each: fmean(one.plain[name][each] for one in sets) for each in networks} for name in PLAIN},
    )


def _rows(role: str, test_set: str | None, scores: _Scores) -> Iterator[Row]:
    place: Row = {"role": role, "test_set": test_set}
    for metric, by_network in scores.resampled.items():
        first = next(iter(by_network.values()))
        for network, score in by_network.items():
            gain = score - first
            yield place | {"network": network, "metric": metric} | _numbers("", score) | _numbers("gain_", gain)
    for metric, values in scores.plain.items():
        yield from (
            place | {"network": network, "metric": metric, "value": number} for network, number in values.items()
        )


def _numbers(prefix: str, score: Estimate) -> dict[str, float]:
    low, high = score.interval()
    return {f"{prefix}value": score.value, f"{prefix}low": low, f"{prefix}high": high}
