"""The comparison report: a row for each method and setting, a column for each measure, means over seeds.

For experiments whose question is which of several methods is better on the same test images.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from amalgam.pipeline.reports.builder import Report, read_rows
from amalgam.pipeline.reports.measure import Measure
from amalgam.pipeline.reports.tables import (
    DEVIATION,
    HIGH,
    INTERVALS,
    LOW,
    Column,
    Row,
    console_table,
    markdown_table,
    percent,
    plain,
    seeds_text,
    shown,
    spread,
)
from amalgam.pipeline.store.artifact import Record
from amalgam.tasks.scoring.results import Result, results_frame

STEM = "comparison"
COLUMNS = "_columns"
"""End of the name of the table of which measures the rows have, and how each is written."""
TEXTS = {"percent": percent, "number": "{:.3g}".format, "millions": lambda value: f"{value / 1e6:.2f}"}
DOT, BAR = "#0072B2", "#999999"


@dataclass(frozen=True)
class More:
    """A second table of a report."""

    stem: str
    """Of its files."""
    title: str
    legend: str
    rows: Sequence[Row]
    measures: Sequence[Measure]


def comparison_report(
    results: Iterable[Result],
    title: str,
    settings: Mapping[str, Any],
    measures: Sequence[Measure],
    provenance: Sequence[Record] = (),
    *,
    stem: str = STEM,
    legend: str = INTERVALS,
    sentences: Sequence[str] = (),
    more: More | None = None,
) -> tuple[Report, dict[str, float]]:
    """The report of some results, and its headline: means of the first measure, and of others marked so, by label.

    Raises ValueError if no result has the first measure.
    """
    rows = comparison_rows(results, measures)
    lead = measures[0]
    if all(row.get(lead.key) is None for row in rows):
        raise ValueError(f"no result has the measure {lead.key!r}: there is nothing to compare")
    headline = {
        f"{one.key}/{row['label']}": row[one.key]
        for one in measures
        for row in rows
        if (one is lead or one.is_headline) and row.get(one.key) is not None
    }
    columns = shown(_columns(measures), rows)
    values = {
        "stem": stem,
        "subtitle": seeds_text(rows),
        "legend": legend,
        "sentences": sentences,
        "headings": [column.heading for column in columns],
        "cells": [(row["label"], row["group"], [column.cell(row) for column in columns]) for row in rows],
        "more": more and _second(more),
    }
    note = [f"**{title}**\n", markdown_table("method", rows, columns), f"\n{seeds_text(rows)}. {legend}\n"]
    report = Report(
        stem,
        title,
        "comparison.html.j2",
        settings,
        values,
        tables=_tables(stem, rows, measures, more),
        figures={stem: comparison_figure(rows, title, lead)},
        texts={f"{stem}.md": "\n".join([*note, *(f"* {one}" for one in sentences)]) + "\n"},
        provenance=provenance,
    )
    return report, headline


def comparison_rows(results: Iterable[Result], measures: Sequence[Measure]) -> list[Row]:
    """One row per network, in order of appearance: means of the measures over seeds, deviations and intervals."""
    frame = results_frame(results)
    rows = []
    for network, of_network in frame.groupby("network", sort=False):
        numbers: Row = {}
        for one in measures:
            of_set = of_network["test_set"].isna() if one.test_set is None else of_network["test_set"] == one.test_set
            found = of_network.loc[of_set & (of_network["metric"] == one.name), "value"]
            numbers |= spread(one.key, found.tolist())
        settings = network.model_copy(update={"method": ""}).label
        about = {"label": network.label, "group": settings, "seeds": of_network["seed"].nunique()}
        rows.append(about | numbers)
    # Rows of equal settings stand together; where every row has its own there is nothing to set apart.
    alone = len({row["group"] for row in rows}) == len(rows)
    return [row | {"group": ""} for row in rows] if alone else rows


def comparison_figure(rows: Sequence[Row], title: str, lead: Measure) -> Figure:
    """A dot per row with its 95 % interval, 9 inches wide, in the order of the table."""
    figure = Figure(figsize=(9, 1.4 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    scale = 100 if lead.unit == "percent" else 1
    for height, row in enumerate(rows):
        if row.get(lead.key) is None:
            continue
        if row.get(lead.key + LOW) is not None:
            axes.plot([scale * row[lead.key + LOW], scale * row[lead.key + HIGH]], [height] * 2, color=BAR, lw=2)
        axes.plot(scale * row[lead.key], height, "o", color=DOT)
    axes.set_yticks(range(len(rows)), [plain(row["label"]) for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel(f"{plain(lead.heading)}; lines: 95 % interval of the mean over seeds")
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(plain(title), fontsize=13, x=0.01, ha="left", weight="bold")
    return figure


def terminal_table(folder: Path, stem: str = STEM) -> Table:
    """The table of a written report without single test sets, for the terminal.

    Raises ValueError if the folder holds no report.
    """
    rows = read_rows(folder, stem)
    measures = [
        Measure.model_validate({name: row[name] for name in Measure.model_fields})
        for row in read_rows(folder, stem + COLUMNS)
    ]
    columns = shown(_columns([one for one in measures if one.test_set is None]), rows)
    return console_table("method", rows, columns, lambda row: row["group"], f"{seeds_text(rows)}.")


def _tables(stem: str, rows: Sequence[Row], measures: Sequence[Measure], more: More | None) -> dict[str, Sequence[Row]]:
    described = [{"label": one.heading, **one.model_dump()} for one in measures]
    return {stem: rows, stem + COLUMNS: described} | ({more.stem: more.rows} if more else {})


def _second(more: More) -> dict[str, Any]:
    """The second table as the template reads it."""
    columns = shown(_columns(more.measures), more.rows)
    cells = [(row["label"], [column.cell(row) for column in columns]) for row in more.rows]
    return {"title": more.title, "legend": more.legend, "headings": [c.heading for c in columns], "cells": cells}


def _columns(measures: Sequence[Measure]) -> list[Column]:
    return [
        Column(one.heading, one.key, TEXTS[one.unit], deviation=DEVIATION if one.deviation else "") for one in measures
    ]
