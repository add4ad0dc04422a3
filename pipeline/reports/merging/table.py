"""Results of merges as rows over seeds, and pairs of methods compared seed by seed."""

from collections.abc import Sequence

from amalgam.pipeline.reports.tables import Row, spread
from amalgam.tasks.scoring.results import Result
from amalgam.tasks.scoring.seeds import OverSeeds, over_seeds

TASK = "task/"
"""What the measure of a single task begins with."""
SUMMARY = {
    ("test", "accuracy"): "accuracy",
    ("test", "worst_accuracy"): "worst",
    ("chosen", "validation_accuracy"): "validation",
    ("chosen", "scale"): "scale",
    ("chosen", "eta"): "eta",
    ("chosen", "penalty"): "penalty",
    ("chosen", "decay"): "decay",
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
        gaps = over_seeds([100 * (a[seed] - b[seed]) for seed in sorted(a.keys() & b.keys())])
        sentences.append(f"{ours} {_verb(gaps)} {other} by {_points(gaps)}.")
    return sentences


def _verb(gaps: OverSeeds) -> str:
    """Wins and losses only where the interval of the mean over seeds leaves out 0."""
    if not gaps.is_sure:
        return "is not clearly apart from"
    return "beats" if gaps.mean > 0 else "loses to"


def _points(gaps: OverSeeds) -> str:
    width = "" if gaps.std is None else f" ± {gaps.std:.1f}"
    seeds = f"{gaps.num_seeds} {'seeds' if gaps.num_seeds > 1 else 'seed'}"
    return f"{gaps.mean:+.1f}{width} points of mean test accuracy over {seeds}"
