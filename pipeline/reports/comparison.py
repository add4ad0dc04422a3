"""The comparison report: a row for each method and setting, a column for each measure, means over seeds.

For experiments whose question is which of several ways is better on the same test images.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from matplotlib.figure import Figure
from rich.table import Table

from amalgam.pipeline.reports.builder import Report, read_rows
from amalgam.pipeline.reports.tables import (
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
COLUMNS = f"{STEM}_columns"
"""The table of which measures the rows have, and how each is written."""
Unit = Literal["percent", "number", "millions"]
TEXTS = {"percent": percent, "number": "{:.3g}".format, "millions": lambda value: f"{value / 1e6:.2f}"}
DOT, BAR = "#0072B2", "#999999"


class Measure(NamedTuple):
    """One column."""

    name: str
    """The metric of the result."""
    heading: str
    unit: Unit = "number"
    test_set: str | None = None
    """None: the number of all test sets together."""

    @property
    def key(self) -> str:
        """What a row has it under."""
        return f"{self.test_set}/{self.name}" if self.test_set else self.name


def comparison_report(
    results: Iterable[Result],
    title: str,
    settings: Mapping[str, Any],
    measures: Sequence[Measure],
    provenance: Sequence[Record] = (),
) -> tuple[Report, dict[str, float]]:
    """The report of some results, and its headline: the mean of the first measure by label.

    Raises ValueError if no result has the first measure.
    """
    rows = comparison_rows(results, measures)
    lead = measures[0]
    headline = {f"{lead.key}/{row['label']}": row[lead.key] for row in rows if row.get(lead.key) is not None}
    if not headline:
        raise ValueError(f"no result has the measure {lead.key!r}: there is nothing to compare")
    columns = shown(_columns(measures), rows)
    values = {
        "subtitle": seeds_text(rows),
        "legend": INTERVALS,
        "headings": [column.heading for column in columns],
        "cells": [(row["label"], row["group"], [column.cell(row) for column in columns]) for row in rows],
    }
    note = f"**{title}**\n\n{markdown_table('method', rows, columns)}\n\n{seeds_text(rows)}.\n"
    figures = {STEM: comparison_figure(rows, title, lead)}
    tables = {STEM: rows, COLUMNS: [{"label": one.heading, **one._asdict()} for one in measures]}
    texts = {f"{STEM}.md": note}
    return Report(STEM, title, "comparison.html.j2", settings, values, tables, figures, texts, provenance), headline


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
    for place, row in enumerate(rows):
        if row.get(lead.key) is None:
            continue
        if row.get(lead.key + LOW) is not None:
            axes.plot([scale * row[lead.key + LOW], scale * row[lead.key + HIGH]], [place] * 2, color=BAR, lw=2)
        axes.plot(scale * row[lead.key], place, "o", color=DOT)
    axes.set_yticks(range(len(rows)), [plain(row["label"]) for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel(f"{plain(lead.heading)}; lines: 95 % interval of the mean over seeds")
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(plain(title), fontsize=13, x=0.01, ha="left", weight="bold")
    return figure


def terminal_table(folder: Path) -> Table:
    """The table of a written report, for the terminal. Raises ValueError if the folder holds no report."""
    rows = read_rows(folder, STEM)
    measures = [
        Measure(row["name"], row["heading"], row["unit"], row["test_set"]) for row in read_rows(folder, COLUMNS)
    ]
    columns = shown(_columns(measures), rows)
    return console_table("method", rows, columns, lambda row: row["group"], f"{seeds_text(rows)}.")


def _columns(measures: Sequence[Measure]) -> list[Column]:
    return [Column(one.heading, one.key, TEXTS[one.unit], deviation=one.unit != "millions") for one in measures]
