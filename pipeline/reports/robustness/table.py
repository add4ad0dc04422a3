"""The robustness table: one row per way to fine-tune, strength and WiSE alpha, mean and deviation over seeds.

Strengths and alphas are chosen here, from the validation accuracies of all seeds; test accuracies are only carried.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from amalgam.pipeline.reports.files import DEVIATION, Row, mean_and_deviation
from amalgam.pipeline.reports.robustness.config import PLAIN, ZERO_SHOT
from amalgam.tasks.clip.testing.test_sets import ROLES, MetricName, Role
from amalgam.tasks.scoring.selection import chosen_alpha, chosen_strength, mean_over_seeds

VALIDATION = "validation/accuracy"
SHIFTS: tuple[Role, ...] = ("seen", "unseen", "natural")
OVERALL = "overall"
"""Mean of in-distribution accuracy and of the mean over the kinds of shift: one number where one is needed."""
HALFWAY = 0.5  # the alpha that WiSE-FT recommends where nothing can be chosen
FORMS = ("", "WiSE 0.5", "WiSE")
"""What a fine-tuned network is shown as: as it is, halfway to zero-shot, and at the alpha chosen on validation."""
JUDGING = get_args(MetricName)
METRIC = re.compile(r"(?P<measure>.+)@alpha=(?P<alpha>[-+.0-9e]+)")
Setting = tuple[str, float | None]


@dataclass(frozen=True)
class Tested:
    """What one network scored."""

    scores: Mapping[str, float]
    """By measure, such as `seen/accuracy`; shares are in [0, 1]."""
    folder: Path
    """Of the step whose predictions these are."""


@dataclass(frozen=True)
class WisePath:
    """One fine-tuned network and those between it and zero-shot."""

    variant: str
    strength: float | None
    seed: int
    by_alpha: Mapping[float, Tested]

    @property
    def setting(self) -> Setting:
        """Everything but the seed."""
        return self.variant, self.strength


def scores_by_alpha(metrics: Mapping[str, float | int | str], folder: Path) -> dict[float, Tested]:
    """The metrics of a path's record, such as `seen/accuracy@alpha=0.5`, by alpha. Raises ValueError if it has none."""
    scores: dict[float, dict[str, float]] = {}
    for name, value in metrics.items():
        if (found := METRIC.fullmatch(name)) and not isinstance(value, str):
            scores.setdefault(float(found["alpha"]), {})[found["measure"]] = float(value)
    if not scores:
        raise ValueError(f"{folder} is no path between networks: its record has no metric such as {VALIDATION}@alpha=1")
    return {alpha: Tested(scores[alpha] | _overall(scores[alpha]), folder) for alpha in sorted(scores)}


def overall_weights(roles: Iterable[str]) -> dict[str, float]:
    """What each role counts in `OVERALL`; empty unless there are both in-distribution and shifted images."""
    given = set(roles)
    shifts = [role for role in SHIFTS if role in given]
    return {"id": 0.5} | {role: 0.5 / len(shifts) for role in shifts} if shifts and "id" in given else {}


def whole_paths(paths: Sequence[WisePath]) -> list[WisePath]:
    """The paths with their common ends: zero-shot at alpha 0, and plain fine-tuning as strength 0 of every penalty."""
    before = {path.seed: path.by_alpha[0.0] for path in paths if path.variant == ZERO_SHOT}
    ends = [replace(path, by_alpha={0.0: before[path.seed]} | dict(path.by_alpha)) for path in paths]
    plain = [path for path in ends if path.variant == PLAIN]
    swept = dict.fromkeys(path.variant for path in paths if path.strength is not None)
    unswept = [variant for variant in swept if (variant, 0.0) not in {path.setting for path in paths}]
    return ends + [replace(path, variant=variant, strength=0.0) for variant in unswept for path in plain]


def robustness_table(paths: Sequence[WisePath], tolerance: float) -> list[Row]:
    """One row per variant, strength and alpha of whole paths, the variants in order, marked where it was chosen."""
    by_setting: dict[Setting, list[WisePath]] = {}
    for path in paths:
        by_setting.setdefault(path.setting, []).append(path)
    rows = list[Row]()
    for variant in dict.fromkeys(path.variant for path in paths):
        strengths = sorted((s for v, s in by_setting if v == variant), key=lambda s: -1 if s is None else s)
        chosen, is_within = _strength([by_setting[variant, strength] for strength in strengths], tolerance)
        for strength in strengths:
            marks = {"chosen_strength": strength == chosen, "within_tolerance": strength != chosen or is_within}
            rows += _path_rows(by_setting[variant, strength], tolerance, marks)
    return rows


def main_rows(rows: Sequence[Row]) -> list[Row]:
    """Zero-shot, and each variant at its chosen strength in every form that was tested; `label` tells them apart.

    Averages with zero-shot are shown where an alpha between the ends was tested.
    """
    chosen = [row for row in rows if row["chosen_strength"]]
    found = [row | {"form": ""} for row in chosen if row["variant"] == ZERO_SHOT]
    for variant in dict.fromkeys(row["variant"] for row in chosen if row["variant"] != ZERO_SHOT):
        of_variant = [row for row in chosen if row["variant"] == variant]
        fits = (lambda row: row["alpha"] == 1, lambda row: row["alpha"] == HALFWAY, lambda row: row["chosen_alpha"])
        forms = list(zip(FORMS, fits, strict=True))[: len(FORMS) if is_averaged(of_variant) else 1]
        found += [row | {"form": form} for form, fit in forms for row in of_variant if fit(row)]
    return [row | {"label": " + ".join(filter(None, (row["variant"], row["form"])))} for row in found]


def is_averaged(rows: Sequence[Row]) -> bool:
    """Whether networks between zero-shot and a fine-tuned one were tested."""
    return any(0 < row["alpha"] < 1 for row in rows)


def row_of(rows: Sequence[Row], variant: str, form: str = "") -> Row | None:
    """The row of the main table of that variant in that form."""
    return next((row for row in main_rows(rows) if (row["variant"], row["form"]) == (variant, form)), None)


def strength_rows(rows: Sequence[Row]) -> list[Row]:
    """Every strength of the variants that have any, without WiSE."""
    swept = {row["variant"] for row in rows if row["strength"]}
    return [row for row in rows if row["variant"] in swept and row["alpha"] == 1]


def roles_of(rows: Sequence[Row]) -> list[Role]:
    """The roles of test sets that were tested."""
    return [role for role in ROLES if any(row.get(f"{role}/accuracy") is not None for row in rows)]


def reference_shift(rows: Sequence[Row]) -> Role | None:
    """The shifts by which the loss of fine-tuning is measured: those seen in pre-training, or others without them."""
    return next((role for role in SHIFTS if role in roles_of(rows)), None)


def home_measure(rows: Sequence[Row]) -> str:
    """In-distribution accuracy; that of held-out images where a suite has no such test images."""
    return "id/accuracy" if "id" in roles_of(rows) else VALIDATION


def set_measures(rows: Sequence[Row]) -> dict[str, str]:
    """The measures that judge single test sets, accuracy and official ones, with a heading each."""
    found = {name: name.split("/") for row in rows for name in row if name.startswith("set/")}
    return {
        name: words[1] if words[2] == "accuracy" else f"{words[1]} {words[2]}"
        for name, words in found.items() if words[2] in JUDGING
    }  # fmt: skip


def drift_measures(rows: Sequence[Row]) -> dict[str, str]:
    """The measures of how far features of held-out images moved, with a heading each."""
    names = dict.fromkeys(name for row in rows for name in row if name.startswith("drift/"))
    return {name: name.partition("/")[2] for name in names if not name.endswith(DEVIATION)}


def _overall(scores: Mapping[str, float]) -> dict[str, float]:
    weights = overall_weights(role for role in ROLES if f"{role}/accuracy" in scores)
    mean = sum(weight * scores[f"{role}/accuracy"] for role, weight in weights.items())
    return {f"{OVERALL}/accuracy": mean} if weights else {}


def _strength(settings: Sequence[Sequence[WisePath]], tolerance: float) -> tuple[float | None, bool]:
    """The strength of one variant, chosen once for all seeds, and whether it is within the tolerance.

    Where only plain fine-tuning is, the best penalty is shown all the same. None of a variant without strengths.
    """
    if settings[0][0].strength is None:
        return None, True
    by_seed: dict[int, dict[float, float]] = {}
    for path in (path for setting in settings for path in setting):
        assert path.strength is not None, "a variant has strengths or it has none"
        by_seed.setdefault(path.seed, {})[path.strength] = path.by_alpha[1.0].scores[VALIDATION]
    validation = mean_over_seeds(list(by_seed.values()))
    chosen = chosen_strength(validation, tolerance)
    penalised = {strength: validation[strength] for strength in validation if strength > 0}
    return (chosen, True) if chosen > 0 or not penalised else (chosen_strength(penalised, 0.0), False)


def _path_rows(paths: Sequence[WisePath], tolerance: float, marks: Row) -> Iterable[Row]:
    """One row per alpha of one setting."""
    first = paths[0]
    by_seed = [{alpha: tested.scores[VALIDATION] for alpha, tested in path.by_alpha.items()} for path in paths]
    best = chosen_alpha(mean_over_seeds(by_seed), tolerance)
    strength = "" if first.strength is None else f" strength {first.strength:g}"
    for alpha in sorted(first.by_alpha):
        scores = [path.by_alpha[alpha].scores for path in paths]
        row: Row = {
            "label": f"{first.variant}{strength} alpha {alpha:g}", "variant": first.variant, "strength": first.strength,
            "alpha": alpha, "chosen_alpha": alpha == best, "seeds": len(paths), **marks,
        }  # fmt: skip
        for measure in dict.fromkeys(name for of_seed in scores for name in of_seed):
            row |= mean_and_deviation(measure, [of_seed[measure] for of_seed in scores if measure in of_seed])
        yield row
