"""The robustness table: one row per fine-tuning method, strength and WiSE alpha, mean and deviation over seeds.

Strengths and alphas are chosen here, from the validation accuracies of all seeds; test accuracies are only carried.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from amalgam.pipeline.reports.robustness.config import DRIFT, PLAIN, ZERO_SHOT
from amalgam.pipeline.reports.tables import PAIRED, Row, spread
from amalgam.tasks.clip.testing.test_sets import ROLES, MetricName
from amalgam.tasks.scoring.comparing import HOME, OVERALL, SHIFTS, overall_weights
from amalgam.tasks.scoring.results import ALPHA, GAIN, STRENGTH, Result, measure_name, results_frame
from amalgam.tasks.scoring.seeds import over_seeds
from amalgam.tasks.scoring.selection import chosen_alpha, mean_over_seeds, penalised_strength

VALIDATION = "validation/accuracy"
OFFICIAL = tuple(f"validation/{metric}" for metric in get_args(MetricName) if metric != "accuracy")
"""Recorded of held-out images only where choices are made by them."""
OF_FEATURES = ("width", "length")
"""What is recorded beside drift of the frozen features themselves."""
NETWORK = ["method", "strength", "alpha"]
"""What tells networks of one seed apart; zero-shot and methods without a penalty have no strength (NaN)."""
HALFWAY = 0.5  # the alpha that WiSE-FT recommends where nothing can be chosen
FORMS = ("", "WiSE 0.5", "WiSE")
"""What a fine-tuned network is shown as: as it is, halfway to zero-shot, and at the alpha chosen on validation."""


def path_frame(results: Mapping[Path, Sequence[Result]]) -> pd.DataFrame:
    """The results of paths by their folders, with what tells networks apart, and with the ends that paths share.

    These are zero-shot at alpha 0, and plain fine-tuning as strength 0 of every penalty. Raises ValueError unless every
    method was tried with the seeds of zero-shot.
    """
    frame = pd.concat([results_frame(rows).assign(folder=folder) for folder, rows in results.items()])
    frame = frame[~frame["metric"].str.endswith(GAIN)].assign(
        method=lambda rows: [network.method for network in rows["network"]],
        strength=lambda rows: [network.number(STRENGTH) for network in rows["network"]],
        alpha=lambda rows: [network.number(ALPHA) for network in rows["network"]],
    )
    frame = frame.drop(columns="network").astype({"strength": float, "alpha": float})
    _require_comparable(frame)
    frame = pd.concat([frame, *_from_zero_shot(frame)])
    frame = pd.concat([frame, *_as_strength_zero(frame)], ignore_index=True)
    return pd.concat([frame, _overall(frame)], ignore_index=True)


def robustness_table(frame: pd.DataFrame, tolerance: float) -> list[Row]:
    """One row per method, strength and alpha of what was tested, the methods in order, marked where it was chosen.

    Rows share their seeds, so each measure also has a paired deviation, of what is left when each seed's mean over all
    networks is subtracted (Cousineau 2005); the other deviations and the intervals are of the accuracies themselves.
    """
    rows, frame = list[Row](), frame.assign(centred=_centred(frame))
    for method, of_method in frame.groupby("method", sort=False):
        chosen, is_within = _strength(of_method, tolerance)
        for strength, of_setting in of_method.groupby("strength", dropna=False):
            number = None if pd.isna(strength) else strength
            marks = {"chosen_strength": number == chosen, "within_tolerance": number != chosen or is_within}
            rows += _path_rows(of_setting, {"method": method, "strength": number} | marks, tolerance)
    return rows


def main_rows(rows: Sequence[Row]) -> list[Row]:
    """Those of `formed_rows` that are different networks: an alpha that was chosen may be one that is shown anyway."""
    found = dict[tuple[str, float], Row]()
    for row in formed_rows(rows):
        found.setdefault((row["method"], row["alpha"]), row)
    return list(found.values())


def formed_rows(rows: Sequence[Row]) -> list[Row]:
    """Zero-shot, and each method at its chosen strength in every form that was tested; `label` tells them apart.

    Averages with zero-shot are shown where an alpha between the ends was tested.
    """
    chosen = [row for row in rows if row["chosen_strength"]]
    found = [row | {"form": ""} for row in chosen if row["method"] == ZERO_SHOT]
    fits: tuple[Callable[[Row], bool], ...] = (
        lambda row: row["alpha"] == 1,
        lambda row: row["alpha"] == HALFWAY,
        lambda row: row["chosen_alpha"],
    )
    for method in dict.fromkeys(row["method"] for row in chosen if row["method"] != ZERO_SHOT):
        of_method = [row for row in chosen if row["method"] == method]
        forms = list(zip(FORMS, fits, strict=True))[: len(FORMS) if is_averaged(of_method) else 1]
        found += [row | {"form": form} for form, fit in forms for row in of_method if fit(row)]
    return [row | {"label": " + ".join(filter(None, (row["method"], row["form"])))} for row in found]


def is_averaged(rows: Sequence[Row]) -> bool:
    """Whether networks between zero-shot and a fine-tuned one were tested."""
    return any(0 < row["alpha"] < 1 for row in rows)


def row_of(rows: Sequence[Row], method: str, form: str = "") -> Row | None:
    """The row of that method in that form."""
    return next((row for row in formed_rows(rows) if (row["method"], row["form"]) == (method, form)), None)


def strength_rows(rows: Sequence[Row]) -> list[Row]:
    """Every strength of the methods that have any, without WiSE."""
    swept = {row["method"] for row in rows if row["strength"]}
    return [row for row in rows if row["method"] in swept and row["alpha"] == 1]


def roles_of(rows: Sequence[Row]) -> list[str]:
    """The roles of test sets that were tested."""
    return [role for role in ROLES if any(row.get(f"{role}/accuracy") is not None for row in rows)]


def reference_shift(rows: Sequence[Row]) -> str | None:
    """The shifts by which the loss of fine-tuning is measured: those seen in pre-training, or others without them."""
    return next((role for role in SHIFTS if role in roles_of(rows)), None)


def home_measure(rows: Sequence[Row]) -> str:
    """In-distribution accuracy; that of held-out images where a suite has no such test images."""
    return f"{HOME}/accuracy" if HOME in roles_of(rows) else VALIDATION


def set_measures(frame: pd.DataFrame) -> dict[str, str]:
    """The measures that judge single test sets, accuracy and official ones, with a heading each."""
    judging = frame[frame["test_set"].notna() & frame["metric"].isin(get_args(MetricName))]
    return {
        row.measure: row.test_set if row.metric == "accuracy" else f"{row.test_set} {row.metric}"
        for row in judging.drop_duplicates("measure").itertuples()
    }


def drift_measures(frame: pd.DataFrame) -> dict[str, str]:
    """The measures of how far features of held-out images moved, with a heading each."""
    moved = (frame["role"] == DRIFT) & (frame["alpha"] == 1) & ~frame["metric"].isin(OF_FEATURES)
    drift = frame[moved].drop_duplicates("measure")
    return dict(zip(drift["measure"], drift["metric"], strict=True))


def _require_comparable(frame: pd.DataFrame) -> None:
    paths = frame.drop_duplicates([*NETWORK[:2], "seed", "folder"])
    wanted = sorted(paths.loc[paths["method"] == ZERO_SHOT, "seed"].tolist())
    if not wanted:
        raise ValueError(f"a report compares with {ZERO_SHOT!r}: give its results too")
    for (method, strength), of_method in paths.groupby(NETWORK[:2], dropna=False, sort=False):
        seeds = sorted(of_method["seed"].tolist())
        if seeds != wanted or len(set(seeds)) < len(seeds):
            raise ValueError(f"{method!r} at strength {strength} has seeds {seeds}, zero-shot has {wanted}")


def _from_zero_shot(frame: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Zero-shot as the start of every path that was not tested there."""
    zero_shot = frame[frame["method"] == ZERO_SHOT]
    for (method, strength), path in frame.groupby(NETWORK[:2], dropna=False, sort=False):
        if not (path["alpha"] == 0).any():
            yield zero_shot.assign(method=method, strength=strength, alpha=0.0)


def _as_strength_zero(frame: pd.DataFrame) -> Iterator[pd.DataFrame]:
    plain = frame[frame["method"] == PLAIN]
    for method, of_method in frame.groupby("method", sort=False):
        if of_method["strength"].notna().any() and not (of_method["strength"] == 0).any():
            yield plain.assign(method=method, strength=0.0)


def _overall(frame: pd.DataFrame) -> pd.DataFrame:
    """The accuracy of each network over in-distribution and shifted images together, if there are both."""
    roles = frame[frame["test_set"].isna() & (frame["metric"] == "accuracy")]
    weights = overall_weights(list(roles["role"].unique()))
    parts = roles[roles["role"].isin(list(weights))]
    parts = parts.assign(value=parts["value"] * parts["role"].map(weights).astype(float))
    total = parts.groupby([*NETWORK, "seed"], dropna=False, sort=False)["value"].sum().reset_index()
    measure = measure_name(OVERALL, None, "accuracy")
    return total.assign(role=OVERALL, test_set=None, metric="accuracy", measure=measure)


def _by_seed(frame: pd.DataFrame, setting: str) -> dict[float, float]:
    """The mean, at each value of a setting, of validation accuracy, or of the official metric where there is one."""
    official = [measure for measure in OFFICIAL if (frame["measure"] == measure).any()]
    found = frame[frame["measure"] == (official[0] if official else VALIDATION)]
    return mean_over_seeds([dict(zip(rows[setting], rows["value"], strict=True)) for _, rows in found.groupby("seed")])


def _strength(of_method: pd.DataFrame, tolerance: float) -> tuple[float | None, bool]:
    """The strength of one method, chosen once for all seeds; None of a method without strengths."""
    if of_method["strength"].isna().all():
        return None, True
    return penalised_strength(_by_seed(of_method[of_method["alpha"] == 1], "strength"), tolerance)


def _path_rows(of_setting: pd.DataFrame, marks: Row, tolerance: float) -> Iterator[Row]:
    """One row per alpha of one setting."""
    best, seeds = chosen_alpha(_by_seed(of_setting, "alpha"), tolerance), of_setting["seed"].nunique()
    strength = "" if marks["strength"] is None else f" strength {marks['strength']:g}"
    for alpha, rows in of_setting.groupby("alpha"):
        label = f"{marks['method']}{strength} alpha {alpha:g}"
        row: dict[str, Any] = {"label": label, **marks, "alpha": alpha, "chosen_alpha": alpha == best, "seeds": seeds}
        for measure, of_measure in rows.groupby("measure", sort=False):
            row |= spread(measure, of_measure["value"].tolist())
            row[measure + PAIRED] = over_seeds(of_measure["centred"].tolist()).std
        yield row


def _centred(frame: pd.DataFrame) -> pd.Series:
    """Values without what their seed adds to all networks, spread to make up for that mean's own share (Morey 2008)."""
    networks = frame.groupby(["measure", *NETWORK], dropna=False).ngroup()
    count = networks.groupby(frame["measure"]).transform("nunique")
    by_network = frame.groupby(networks)["value"].transform("mean")
    of_seed = frame.groupby(["measure", "seed"])["value"].transform("mean")
    centred = frame["value"] - by_network - of_seed + frame.groupby("measure")["value"].transform("mean")
    alone = count < 2
    return by_network + (frame["value"] - by_network).where(alone, centred * (count / (count - 1).clip(1)) ** 0.5)
