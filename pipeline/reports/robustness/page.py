"""The report of a robustness experiment: ways to fine-tune as findings in words, one picture, tables and a page.

`write_report` makes `robustness.png`, `.html` (one file, nothing to fetch), `.csv`, `.parquet`, `.md` and `.json`, and
`autoencoders.csv` and `.parquet` where autoencoders were measured.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group

from amalgam.pipeline.reports.files import (
    Column,
    Row,
    console_table,
    markdown_table,
    percent,
    read_rows,
    render,
    seeds_text,
    shown,
    write_picture,
    write_rows,
)
from amalgam.pipeline.reports.robustness.config import ZERO_SHOT, RobustnessReportConfig
from amalgam.pipeline.reports.robustness.figure import robustness_figure
from amalgam.pipeline.reports.robustness.findings import (
    ROLE_NAMES,
    Comparison,
    Findings,
    compared_networks,
    criteria,
    matched_comparison,
    wise_comparisons,
)
from amalgam.pipeline.reports.robustness.pooling import PooledAccuracies, pooled
from amalgam.pipeline.reports.robustness.saes import (
    SAES_STEM,
    compared_measures,
    console_qualities,
    markdown_qualities,
    page_qualities,
)
from amalgam.pipeline.reports.robustness.sentences import headlines, recommendation
from amalgam.pipeline.reports.robustness.table import (
    VALIDATION,
    WisePath,
    drift_measures,
    is_averaged,
    main_rows,
    robustness_table,
    set_measures,
    strength_rows,
    whole_paths,
)

STEM = "robustness"
SETTINGS = (Column("strength", "strength", "{:g}".format), Column("alpha", "alpha", "{:g}".format))
SCORES = tuple(Column(name, f"{role}/accuracy", percent, deviation=True) for role, name in ROLE_NAMES.items())
CHOICE = Column("validation", VALIDATION, percent, deviation=True)
IN_CONSOLE = (
    Column("str.", "strength", "{:g}".format),
    Column("alpha", "alpha", "{:g}".format),
    *(Column(name, f"{role}/accuracy", percent, deviation=True) for role, name in (
        ("id", "in dist. %"), ("seen", "seen %"), ("unseen", "unseen %"), ("natural", "natural %"),
    )),
)  # fmt: skip
STRENGTH_LEGEND = (
    "Strength: the largest that loses at most {tolerance} of in-distribution validation accuracy to the best "
    "strength and to plain fine-tuning."
)
WISE_LEGEND = (
    "WiSE averages weights with those of zero-shot, alpha being the share of the "
    "fine-tuned ones: at 0.5, or at the smallest alpha that loses at most {tolerance} of validation accuracy to "
    "the best of its path."
)
OVERALL_LEGEND = "Overall: the mean of in-distribution accuracy and of the mean over kinds of shift."


def write_report(
    paths: Sequence[WisePath], qualities: Sequence[Row], folder: Path, config: RobustnessReportConfig,
    provenance: Sequence[Mapping[str, Any]],
) -> dict[str, float]:  # fmt: skip
    """Write the report into a folder and return what MLflow should compare: accuracies and differences by name.

    `qualities` are rows of `robustness_saes`, none if no autoencoder was measured.
    """
    whole = whole_paths(paths)
    rows = robustness_table(whole, config.tolerance)
    findings = find(rows, whole, pooled(whole, compared_networks(rows)))
    write_rows(rows, folder, STEM)
    drawing = write_picture(robustness_figure(rows, config.title), folder / f"{STEM}.png")
    (folder / f"{STEM}.json").write_text(json.dumps(asdict(findings), indent=2) + "\n")
    if qualities:
        write_rows(qualities, folder, SAES_STEM)
    (folder / f"{STEM}.md").write_text(_markdown(rows, qualities, findings, config))
    (folder / f"{STEM}.html").write_text(_page(rows, qualities, findings, drawing, config, provenance))
    return headline(rows, findings) | compared_measures(qualities)


def find(rows: Sequence[Row], paths: Sequence[WisePath], accuracies: PooledAccuracies) -> Findings:
    """Everything the rows say in words."""
    matched = matched_comparison(rows, accuracies)
    return Findings(
        headlines(rows, accuracies),
        recommendation(rows, accuracies),
        [*([matched] if matched else []), *wise_comparisons(rows, accuracies)],
        criteria(rows, paths, accuracies),
    )


def headline(rows: Sequence[Row], findings: Findings) -> dict[str, float]:
    """Accuracies such as `seen/l2 + WiSE`, choices such as `strength/l2`, and the first difference with its ends."""
    found = dict[str, float]()
    for row in main_rows(rows):
        found |= {f"{role}/{row['label']}": row[f"{role}/accuracy"] for role in ROLE_NAMES if f"{role}/accuracy" in row}
        if row["strength"] is not None and not row["form"]:
            found[f"strength/{row['label']}"] = row["strength"]
        if row["form"] == "WiSE":
            found[f"alpha/{row['label']}"] = row["alpha"]
    for one in findings.comparisons[:1]:
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
    caption = "\n".join(filter(None, (f"{seeds_text(rows)}. Without WiSE alpha is 1.", choice and f"Choose {choice}")))
    main = console_table("", rows, shown(IN_CONSOLE, rows), lambda row: row["variant"], caption)
    has_saes = (folder / f"{SAES_STEM}.parquet").is_file()
    return Group(main, *([console_qualities(folder)] if has_saes else []))


def _markdown(rows: Sequence[Row], qualities: Sequence[Row], findings: Findings, config: RobustnessReportConfig) -> str:
    main = main_rows(rows)
    columns = shown((*SETTINGS, *SCORES), main)
    lines = [[row["label"], *(column.cell(row) for column in columns)] for row in main]
    table = markdown_table(["", *(column.heading for column in columns)], lines)
    choice = f"**Choose** {findings.recommendation}\n\n" if findings.recommendation else ""
    said = "".join(f"* {sentence}\n" for sentence in findings.headlines)
    legend = f"Accuracy in %. {seeds_text(rows)}. {_legend(rows, config)}"
    saes = f"\n{markdown_qualities(qualities)}" if qualities else ""
    return f"**{config.title}**\n\n{table}\n\n{choice}{said}\n{legend}\n{saes}"


def _page(
    rows: Sequence[Row], qualities: Sequence[Row], findings: Findings, drawing: str, config: RobustnessReportConfig,
    provenance: Sequence[Mapping[str, Any]],
) -> str:  # fmt: skip
    main, tuned, sets = main_rows(rows), [row for row in rows if row["alpha"] == 1], set_measures(rows)
    moved = [Column(text, name, "{:.3f}".format, deviation=True) for name, text in drift_measures(tuned).items()]
    roles = [role for role in ROLE_NAMES if any(role in one.by_role for one in findings.comparisons)]
    return render(
        "robustness.html.j2",
        title=config.title,
        subtitle=seeds_text(rows),
        legend=_legend(rows, config),
        drawing=drawing,
        findings=findings,
        main=_scores(main, (*SETTINGS, *SCORES)),
        roles=[ROLE_NAMES[role] for role in roles],
        comparisons=[_compared(one, roles) for one in findings.comparisons],
        strengths=_scores(strength_rows(rows), (SETTINGS[0], CHOICE, *SCORES)),
        drift=_scores(tuned, (SETTINGS[0], *moved)) if moved else None,
        saes=page_qualities(qualities) if qualities else None,
        sets=list(sets.values()),
        set_cells=[(row["label"], row["variant"], _changes(row, main[0], list(sets))) for row in main],
        about=[(name, config.about[name]) for name in _variants(main) if name in config.about],
        config=config.settings,
        provenance=provenance,
    )


def _scores(rows: Sequence[Row], columns: Sequence[Column]) -> dict[str, Any]:
    """A table of the page: the best of each column of accuracies stands out."""
    columns = shown(columns, rows)
    accuracies = {column.measure for column in columns if column.text is percent}
    best = {name: max(row[name] for row in rows if row.get(name) is not None) for name in accuracies}
    values = [[(c.cell(row), row.get(c.measure) == best.get(c.measure, "")) for c in columns] for row in rows]
    return {
        "headings": [column.heading for column in columns],
        "rows": [
            {"label": row["label"], "kind": row["variant"], "chosen": row["chosen_strength"], "cells": cells}
            for row, cells in zip(rows, values, strict=True)
        ],
    }


def _variants(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["variant"] for row in rows))


def _compared(one: Comparison, roles: Sequence[str]) -> tuple[str, str, list[tuple[str, bool, str]]]:
    """Both names, and for each role the difference, whether it is sure, and in how many seeds it is positive."""
    found = [one.by_role.get(role) for role in roles]
    return one.ours, one.theirs, [
        ("", False, "") if d is None else (str(d), d.is_sure, f"{d.num_ahead}/{d.num_seeds}") for d in found
    ]  # fmt: skip


def _changes(row: Row, zero_shot: Row, sets: Sequence[str]) -> list[tuple[str, float]]:
    """The accuracy on each test set in percent, and its distance to zero-shot, full at 20 points, to colour it by."""
    assert zero_shot["variant"] == ZERO_SHOT, "zero-shot is the first row of the main table"
    found = []
    for name in sets:
        value, before = (each.get(name) for each in (row, zero_shot))
        shade = 0.0 if value is None or before is None else max(-1.0, min(1.0, 5 * (value - before)))
        found.append(("" if value is None else percent(value), round(shade, 3)))
    return found


def _legend(rows: Sequence[Row], config: RobustnessReportConfig) -> str:
    allowed = 100 * config.tolerance
    words = (STRENGTH_LEGEND, *([WISE_LEGEND] if is_averaged(rows) else []), OVERALL_LEGEND)
    return " ".join(words).format(tolerance=f"{allowed:g} point" + "s" * (allowed != 1))
