"""A method's settings are chosen on validation images of all tasks, and what was chosen is tested once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from amalgam.tasks.merging.merging import merge
from amalgam.tasks.merging.methods.method import MergeMethod
from amalgam.tasks.merging.staged import State

Score = Callable[[State], Sequence[float]]
"""Accuracy of an encoder on every task."""


@dataclass(frozen=True)
class Chosen:
    """The best of a grid."""

    method: MergeMethod
    validation: float
    """Mean accuracy over the tasks, on validation images."""
    merged: dict[str, Tensor]
    eta: float | None
    """Heterogeneity of the tasks over all matrices; None of a method that has none."""
    fallbacks: int
    """Tensors for which the method took its fallback."""
    at_edge: bool
    """Whether the largest of several scales won, so that a larger one might win more."""


def choose(
    grid: Sequence[MergeMethod],
    base: State,
    members: Sequence[State],
    statistics: Any,
    validate: Score,
    log: Callable[[dict[str, float], int], None] = lambda metrics, step: None,
) -> Chosen:
    """Merge by every method of the grid and keep the one of highest mean validation accuracy, of equals the first.

    Logs that accuracy by scale, in percent, or by place in the grid where scales do not tell its methods apart. Raises
    ValueError for an empty grid, and as `merge` does.
    """
    if not grid:
        raise ValueError("there is no method to choose from")
    best: Chosen | None = None
    steps = _steps(grid)
    for step, method in zip(steps, grid, strict=True):
        facts: dict[str, Mapping[str, float | str]] = {}
        merged = merge(base, members, method, statistics, facts.__setitem__)
        accuracies = validate(merged)
        mean = sum(accuracies) / len(accuracies)
        log({"validation/accuracy": mean}, step)
        if best is None or mean > best.validation:
            etas = [float(found["eta"]) for found in facts.values() if "eta" in found]
            fallbacks = sum("fallback" in found for found in facts.values())
            best = Chosen(method, mean, merged, sum(etas) if etas else None, fallbacks, _largest(method, grid))
    assert best is not None
    return best


def _steps(grid: Sequence[MergeMethod]) -> list[int]:
    """Whole numbers that tell the methods of a grid apart."""
    scales = [round(100 * getattr(one, "scale", 0.0)) for one in grid]
    return scales if len(set(scales)) == len(grid) else list(range(len(grid)))


def _largest(method: MergeMethod, grid: Sequence[MergeMethod]) -> bool:
    scales = [getattr(one, "scale", None) for one in grid]
    return len(grid) > 1 and scales[0] is not None and getattr(method, "scale", None) == max(scales)  # type: ignore[type-var]
