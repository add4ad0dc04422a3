"""Results of merges as rows over seeds, and pairs of methods compared seed by seed."""

import statistics
from collections.abc import Sequence

from amalgam.pipeline.reports.tables import Row, spread
from amalgam.tasks.scoring.results import Result

TASK = "task/"
"""What the measure of a single task begins with."""
SUMMARY = {
    ("test", "accuracy"): "accuracy",
    ("test", "worst_accuracy"): "worst",
    ("chosen", "validation_accuracy"): "validation",
    ("chosen", "scale"): "scale",
    ("chosen", "eta"): "eta",
    ("chosen", "at_edge"): "at_edge",
    ("chosen", "fallbacks"): "fallbacks",
}
"""Role and metric -> column."""


def merge_table(results: Sequence[Result]) -> list[Row]:
    """One row per method in the order in which they were run: means and deviations over seeds."""
    values = measured(results)
    rows = []
    for label, measures in values.items():
        row: Row = {"label": label, "seeds": len(measures["accuracy"])}
        for name, by_seed in measures.items():
            row |= spread(name, list(by_seed.values()))
        rows.append(row)
    return rows


def measured(results: Sequence[Result]) -> dict[str, dict[str, dict[int, float]]]:
    """Values by label, column and seed."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for one in results:
        name = SUMMARY.get((one.role, one.metric)) if one.test_set is None else TASK + one.test_set
        if name is not None:
            found.setdefault(one.network.method, {}).setdefault(name, {})[one.network.seed] = one.value
    return found


def verdicts(results: Sequence[Result], ours: str, others: Sequence[str]) -> list[str]:
    """A sentence per pair: by how many points `ours` is better on average over seeds, and how much that varies."""
    values, sentences = measured(results), []
    for other in others:
        if ours not in values or other not in values:
            continue
        a, b = values[ours]["accuracy"], values[other]["accuracy"]
        gaps = [100 * (a[seed] - b[seed]) for seed in sorted(a.keys() & b.keys())]
        mean = statistics.fmean(gaps)
        deviation = statistics.stdev(gaps) if len(gaps) > 1 else None
        sentences.append(f"{ours} {_verb(mean, deviation)} {other} by {_points(mean, deviation, len(gaps))}.")
    return sentences


def _verb(mean: float, deviation: float | None) -> str:
    """Wins and losses only where every seed would agree within two standard deviations of the gap."""
    if deviation is None or abs(mean) <= 2 * deviation:
        return "is not clearly apart from" if mean else "equals"
    return "beats" if mean > 0 else "loses to"


def _points(mean: float, deviation: float | None, seeds: int) -> str:
    width = "" if deviation is None else f" ± {deviation:.1f}"
    return f"{mean:+.1f}{width} points of mean test accuracy over {seeds} {'seeds' if seeds > 1 else 'seed'}"
