"""The robustness table as curves for MLflow: accuracies of each method by strength and by alpha."""

from collections.abc import Iterator, Mapping, Sequence

from amalgam.pipeline.reports.robustness.config import ZERO_SHOT
from amalgam.pipeline.reports.robustness.findings import line_of
from amalgam.pipeline.reports.robustness.table import (
    VALIDATION,
    formed_rows,
    home_measure,
    is_averaged,
    roles_of,
    strength_rows,
)
from amalgam.pipeline.reports.tables import DEVIATION, Row


def swept(rows: Sequence[Row]) -> Iterator[tuple[int, Mapping[str, float]]]:
    """Points of curves, with their steps.

    `by_strength/ROLE/METHOD` is without WiSE, by the place of the strength in its grid: 0 is plain fine-tuning.
    `by_alpha/ROLE/METHOD` is at the chosen strength, by the share of fine-tuned weights in percent.
    """
    roles = [*roles_of(rows), "validation"]
    for method in dict.fromkeys(row["method"] for row in strength_rows(rows)):
        for place, row in enumerate(line_of(rows, method)):
            yield place, _accuracies("by_strength", row, roles)
    chosen = [row for row in rows if row["chosen_strength"] and row["method"] != ZERO_SHOT]
    for row in chosen if is_averaged(chosen) else ():
        yield round(100 * row["alpha"]), _accuracies("by_alpha", row, roles)


def best_scores(rows: Sequence[Row]) -> dict[str, float]:
    """In-distribution accuracy, and its deviation, of the fine-tuned network shown that is best on validation images.

    Named as any tested network's are; empty if nothing was fine-tuned.
    """
    tuned = [row for row in formed_rows(rows) if row["method"] != ZERO_SHOT]
    best: Row = max(tuned, key=lambda row: row[VALIDATION], default={})
    measure = home_measure(rows)
    found = {f"test/accuracy{end}": best.get(measure + end) for end in ("", DEVIATION)}
    return {name: float(value) for name, value in found.items() if value is not None}


def _accuracies(sweep: str, row: Row, roles: Sequence[str]) -> dict[str, float]:
    values = {role: row.get(f"{role}/accuracy") for role in roles}
    return {f"{sweep}/{role}/{row['method']}": value for role, value in values.items() if value is not None}
