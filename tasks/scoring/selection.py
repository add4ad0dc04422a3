"""Choices by accuracy on held-out images of the training distribution, never on a test image.

Everything here reads validation accuracies alone, so that no choice can depend on a test. A strength of 0 is plain
fine-tuning: it belongs on the grid of every method. Importable without torch.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean

ROUNDING = 1e-9  # what 0.80 - 0.79 exceeds 0.01 by, and more


def mean_over_seeds(by_seed: Sequence[Mapping[float, float]]) -> dict[float, float]:
    """Mean validation accuracy of each setting, so that all seeds share one choice.

    Raises ValueError if there is no seed, or one was not tried at the settings of the others.
    """
    if not by_seed:
        raise ValueError("a mean over seeds needs at least one seed")
    if odd := [sorted(tried) for tried in by_seed if tried.keys() != by_seed[0].keys()]:
        raise ValueError(f"every seed is tried at the same settings, got {sorted(by_seed[0])} and {odd[0]}")
    return {setting: fmean(tried[setting] for tried in by_seed) for setting in sorted(by_seed[0])}


def chosen_strength(validation: Mapping[float, float], tolerance: float) -> float:
    """The largest strength whose accuracy is at most `tolerance` below the best of all strengths.

    `validation` is accuracy in [0, 1] by strength, plain fine-tuning at 0 where the method may fall back on it.
    """
    return max(_within(validation, tolerance))


def chosen_alpha(validation: Mapping[float, float], tolerance: float) -> float:
    """The smallest WiSE alpha, the nearest to zero-shot, at most `tolerance` below the best of its path."""
    return min(_within(validation, tolerance))


def penalised_strength(validation: Mapping[float, float], tolerance: float) -> tuple[float, bool]:
    """The strength to show of a penalised method, and whether it is within the tolerance.

    Where plain fine-tuning alone (strength 0) is, the best of the penalties is shown all the same.
    """
    chosen = chosen_strength(validation, tolerance)
    penalised = {strength: accuracy for strength, accuracy in validation.items() if strength > 0}
    return (chosen, True) if chosen > 0 or not penalised else (chosen_strength(penalised, 0.0), False)


def recovered_fraction(accuracy: float, zero_shot: float, plain: float) -> float | None:
    """Which share of what plain fine-tuning loses against zero-shot is kept; None if it loses nothing."""
    return (accuracy - plain) / (zero_shot - plain) if zero_shot > plain else None


def _within(validation: Mapping[float, float], tolerance: float) -> list[float]:
    _check(validation)
    if tolerance < 0:
        raise ValueError(f"a tolerance is at least 0, got {tolerance}")
    floor = max(validation.values()) - tolerance - ROUNDING
    return [setting for setting, accuracy in validation.items() if accuracy >= floor]


def _check(validation: Mapping[float, float]) -> None:
    if not validation:
        raise ValueError("there is nothing to choose from: give at least one setting with its validation accuracy")
