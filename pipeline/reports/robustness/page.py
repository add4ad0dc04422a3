"""The report of a robustness experiment: fine-tuning methods as findings in words, one picture, tables and a page.

`robustness_report` makes `robustness.png`, `.html` (one file, nothing to fetch), `.csv`, `.parquet`, `.md` and `.json`,
and `autoencoders.csv` and `.parquet` where autoencoders were measured.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Group

from amalgam.pipeline.reports.builder import Report, read_rows
from amalgam.pipeline.reports.robustness.config import WARNING, ZERO_SHOT, RobustnessReportConfig
from amalgam.pipeline.reports.robustness.figure import robustness_figure
from amalgam.pipeline.reports.robustness.findings import (
    ROLE_NAMES,
    Findings,
    Pair,
    compared_cells,
    compared_networks,
    matched_comparison,
    wise_comparisons,
)
from amalgam.pipeline.reports.robustness.pooling import Pooled, pooled
from amalgam.pipeline.reports.robustness.saes import (
    SAES_STEM,
    compared_measures,
    console_qualities,
    markdown_qualities,
    page_qualities,
)
from amalgam.pipeline.reports.robustness.sentences import explained_networks, headlines, recommendation, strength_forms
from amalgam.pipeline.reports.robustness.table import (
    OFFICIAL,
    VALIDATION,
    drift_measures,
    formed_rows,
    is_averaged,
    main_rows,
    robustness_table,
    set_measures,
    strength_rows,
)
from amalgam.pipeline.reports.tables import (
    INTERVALS,
    PAIRED,
    Column,
    Row,
    console_table,
    markdown_table,
    percent,
    seeds_text,
    shown,
)
from amalgam.pipeline.store.artifact import Record
from amalgam.tasks.scoring.results import Network

STEM = "robustness"
SETTINGS = (Column("strength", "strength", "{:g}".format), Column("alpha", "alpha", "{:g}".format))
SCORES = tuple(
    Column(name + words, f"{role}/{metric}", percent, deviation=PAIRED)
    for role, name in ROLE_NAMES.items()
    for metric, words in (("accuracy", ""), ("worst_group", ", worst group"))
)
CHOICE = Column("validation", VALIDATION, percent, deviation=PAIRED)
IN_CONSOLE = (
    Column("str.", "strength", "{:g}".format),
    Column("alpha", "alpha", "{:g}".format),
    *(
        Column(name, f"{role}/accuracy", percent, deviation=PAIRED)
        for role, name in (
            ("id", "in dist. %"),
            ("seen", "seen %"),
            ("unseen", "unseen %"),
            ("natural", "natural %"),
        )
    ),
)
INTERVAL_COLUMNS = tuple(Column(name, f"{role}/accuracy", percent, interval=True) for role, name in ROLE_NAMES.items())
STRENGTH_LEGEND = (
    "Strength: the largest that loses at most {tolerance} of in-distribution validation {choice} to the best strength "
    "and to plain fine-tuning."
)
WISE_LEGEND = (
    "WiSE averages weights with those of zero-shot, alpha being the share of the fine-tuned ones: at 0.5, or at the "
    "smallest alpha that loses at most {tolerance} of validation {choice} to the best of its path."
)
PAIRED_TEXT = ", paired (each seed's mean over all networks is subtracted first)"
OVERALL_LEGEND = "Overall: the mean of in-distribution accuracy and of the mean over kinds of shift."


def robustness_report(
    frame: pd.DataFrame,
    qualities: Sequence[Row],
    config: RobustnessReportConfig,
    provenance: Sequence[Record] = (),
    explained: Mapping[str, Network] | None = None,
) -> tuple[Report, dict[str, float]]:
    """The report of what was tested, and what MLflow should compare of it: accuracies and differences by name.

    `qualities` are rows of `quality_rows`, none if no autoencoder was measured; `explained` are the networks of
    explanations by the names of their folders, which lie beside the report's.
    """
    rows = robustness_table(frame, config.tolerance)
    findings = find(rows, pooled(frame, compared_networks(rows, config.compare)), config.compare)
    said = dict.fromkeys(note for record in provenance for note in record.notes if note.startswith(WARNING))
    findings = replace(findings, headlines=[*said, *findings.headlines])
    report = Report(
        STEM,
        config.title,
        "robustness.html.j2",
        config.settings,
        values=_values(rows, frame, qualities, findings, config)
        | {"explained": explained_networks(rows, explained or {})},
        tables={STEM: rows} | ({SAES_STEM: qualities} if qualities else {}),
        figures={STEM: robustness_figure(rows, config.title)},
        texts={
            f"{STEM}.json": json.dumps(asdict(findings), indent=2) + "\n",
            f"{STEM}.md": _markdown(rows, qualities, findings, config),
        },
        provenance=provenance,
    )
    return report, headline(rows, findings, config.compare) | compared_measures(qualities)


def find(rows: Sequence[Row], accuracies: Pooled, pair: Pair) -> Findings:
    """Everything the rows say in words."""
    matched = matched_comparison(rows, accuracies, pair)
    return Findings(
        headlines(rows, accuracies, pair),
        recommendation(rows, accuracies),
        [*([matched] if matched else []), *wise_comparisons(rows, accuracies)],
    )


def headline(rows: Sequence[Row], findings: Findings, pair: Pair) -> dict[str, float]:
    """Accuracies such as `seen/l2 + WiSE`, choices such as `strength/l2`, the difference of a pair with its ends."""
    found = dict[str, float]()
    for row in formed_rows(rows):
        found |= {f"{role}/{row['label']}": row[f"{role}/accuracy"] for role in ROLE_NAMES if f"{role}/accuracy" in row}
        if row["strength"] is not None and not row["form"]:
            found[f"strength/{row['label']}"] = row["strength"]
        if row["form"] == "WiSE":
            found[f"alpha/{row['label']}"] = row["alpha"]
    for one in findings.comparisons[: 1 if pair else 0]:
        for role, difference in one.by_role.items():
            found |= {f"difference/{role}": difference.value, f"difference/{role} low": difference.low}
            found |= {f"difference/{role} high": difference.high}
    return found


def terminal_table(folder: Path) -> Group:
    """The main table of a written report and that of its autoencoders, if it has one, for the terminal.

    Raises ValueError if the folder holds no report.
    """
    rows = main_rows(read_rows(folder, STEM))
    choice = json.loads((folder / f"{STEM}.json").read_text())["recommendation"]
    caption = "\n".join(filter(None, (f"{_seeds_text(rows)}. Without WiSE alpha is 1.", choice and f"Choose {choice}")))
    main = console_table("", rows, shown(IN_CONSOLE, rows), lambda row: row["method"], caption)
    has_saes = (folder / f"{SAES_STEM}.parquet").is_file()
    return Group(main, *([console_qualities(folder)] if has_saes else []))


def _markdown(rows: Sequence[Row], qualities: Sequence[Row], findings: Findings, config: RobustnessReportConfig) -> str:
    main = main_rows(rows)
    table = markdown_table("", main, shown((*SETTINGS, *SCORES), main))
    choice = f"**Choose** {findings.recommendation}\n\n" if findings.recommendation else ""
    sentences = "".join(f"* {sentence}\n" for sentence in findings.headlines)
    legend = f"Accuracy in %. {_seeds_text(rows)}. {_legend(rows, config)}"
    saes = f"\n{markdown_qualities(qualities)}" if qualities else ""
    return f"**{config.title}**\n\n{table}\n\n{choice}{sentences}\n{legend}\n{saes}"


def _values(
    rows: Sequence[Row],
    frame: pd.DataFrame,
    qualities: Sequence[Row],
    findings: Findings,
    config: RobustnessReportConfig,
) -> dict[str, Any]:
    main, tuned, sets = main_rows(rows), [row for row in rows if row["alpha"] == 1], set_measures(frame)
    moved = [Column(text, name, "{:.3f}".format, deviation=PAIRED) for name, text in drift_measures(frame).items()]
    roles = [role for role in ROLE_NAMES if any(role in one.by_role for one in findings.comparisons)]
    return {
        "subtitle": _seeds_text(rows),
        "legend": _legend(rows, config),
        "paired": " Deviations are paired." * (rows[0]["seeds"] > 1),
        "findings": findings,
        "main": _scores(main, (*SETTINGS, *SCORES)),
        "intervals": _scores(main, INTERVAL_COLUMNS),
        "intervals_legend": INTERVALS,
        "roles": [ROLE_NAMES[role] for role in roles],
        "comparisons": [row for one in findings.comparisons for row in compared_cells(one, roles)],
        "strengths": _scores(strength_rows(rows), (SETTINGS[0], CHOICE, *SCORES)),
        "drift": _scores(tuned, (SETTINGS[0], *moved)) if moved else None,
        "saes": page_qualities(qualities) if qualities else None,
        "sets": list(sets.values()),
        "set_cells": [(row["label"], row["method"], _changes(row, main[0], list(sets))) for row in main],
        "about": [(name, config.about[name]) for name in _methods(main) if name in config.about],
    }


def _scores(rows: Sequence[Row], columns: Sequence[Column]) -> dict[str, Any]:
    """A table of the page: the best of each column of accuracies stands out if there are several seeds."""
    columns = shown(columns, rows)
    accuracies = {column.measure for column in columns if column.text is percent}
    many = any(row["seeds"] > 1 for row in rows)  # one seed shows what chance made of training
    best = {name: max(row[name] for row in rows if row.get(name) is not None) for name in accuracies if many}
    values = [
        [(c.cell(row), c.measure in best and row.get(c.measure) == best[c.measure]) for c in columns] for row in rows
    ]
    return {
        "headings": [column.heading for column in columns],
        "rows": [
            {"label": row["label"], "kind": row["method"], "chosen": row["chosen_strength"], "cells": cells}
            for row, cells in zip(rows, values, strict=True)
        ],
    }


def _methods(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["method"] for row in rows))


def _changes(row: Row, zero_shot: Row, sets: Sequence[str]) -> list[tuple[str, float]]:
    """The accuracy on each test set in percent, and its distance to zero-shot, full at 20 points, to colour it by."""
    assert zero_shot["method"] == ZERO_SHOT, "zero-shot is the first row of the main table"
    found = []
    for name in sets:
        value, before = (each.get(name) for each in (row, zero_shot))
        shade = 0.0 if value is None or before is None else max(-1.0, min(1.0, 5 * (value - before)))
        found.append(("" if value is None else percent(value), round(shade, 3)))
    return found


def _seeds_text(rows: Sequence[Row]) -> str:
    """Over how many seeds the rows are means, and that their deviations are paired."""
    return seeds_text(rows) + PAIRED_TEXT * (rows[0]["seeds"] > 1)


def _legend(rows: Sequence[Row], config: RobustnessReportConfig) -> str:
    allowed, forms = 100 * config.tolerance, strength_forms(rows, config.strength_form)
    choice = next((m.partition("/")[2].replace("_", " ") for m in OFFICIAL if m in rows[0]), "accuracy")
    words = [STRENGTH_LEGEND, *[WISE_LEGEND] * is_averaged(rows), OVERALL_LEGEND, forms]
    return " ".join(filter(None, words)).format(tolerance=f"{allowed:g} point" + "s" * (allowed != 1), choice=choice)
