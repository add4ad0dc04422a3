"""The report of a fusion experiment: its results as one frontier table, picture and page.

`frontier_report` makes `frontier.png`, `.html` (one file, nothing to fetch), `.csv`, `.parquet` and `.md`.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from amalgam.pipeline.reports.builder import Report, read_rows
from amalgam.pipeline.reports.frontier.figure import frontier_figure
from amalgam.pipeline.reports.frontier.table import RELATIVE, class_measures, frontier_table
from amalgam.pipeline.reports.tables import (
    DEVIATION,
    INTERVALS,
    Column,
    Row,
    console_table,
    markdown_table,
    percent,
    seeds_text,
    shown,
)
from amalgam.pipeline.store.artifact import Record
from amalgam.tasks.scoring.results import Result


def _times(value: float) -> str:
    return f"{value:.2f}x"


COLUMNS = (
    Column("accuracy %", "accuracy", percent, deviation=DEVIATION),
    Column("NLL", "nll", "{:.3f}".format),
    Column("ECE %", "calibration_error", percent),
    Column("params", RELATIVE + "nonzero_parameters", _times),
    Column("FLOPs", RELATIVE + "nonzero_flops", _times),
    Column("stored", RELATIVE + "parameters", _times),
    Column("ms", "latency_ms", "{:.2f}".format),
)
ON_PAGE = (COLUMNS[0], Column("95 % interval", "accuracy", percent, interval=True), *COLUMNS[1:])
STEM = "frontier"
LEGEND = (
    "PartialOT a: partial fusion in which a share a of each layer's units stays unmatched; at 0 it is one network, at "
    "1 the logit ensemble. params and FLOPs count nonzeros, stored what a network of blocks holds, as multiples of one "
    "member. "
    "ECE: expected calibration error. ms: one image, forward."
)


def frontier_report(
    results: Iterable[Result], title: str, settings: Mapping[str, Any], provenance: Sequence[Record] = ()
) -> tuple[Report, dict[str, float]]:
    """The report of some results, and its headline: the mean accuracy of everything but single members."""
    rows = frontier_table(results)
    classes = class_measures(rows)
    columns = shown(ON_PAGE, rows)
    values = {
        "subtitle": seeds_text(rows),
        "legend": f"{LEGEND} {INTERVALS}",
        "headings": [column.heading for column in columns],
        "cells": [(row["label"], _group(row), [column.cell(row) for column in columns]) for row in rows],
        "classes": list(classes.values()),
        "class_cells": [(row["label"], [_shade(row.get(name)) for name in classes]) for row in rows],
    }
    report = Report(
        STEM,
        title,
        "frontier.html.j2",
        settings,
        values,
        tables={STEM: rows},
        figures={STEM: frontier_figure(rows, title)},
        texts={f"{STEM}.md": _markdown(rows, title)},
        provenance=provenance,
    )
    return report, headline(rows)


def headline(rows: Sequence[Row]) -> dict[str, float]:
    """Mean accuracy by name: the mean and best member, the ensembles, every fused network."""
    members = [row["accuracy"] for row in rows if row["kind"] == "member"]
    single = (
        {"accuracy/mean member": sum(members) / len(members), "accuracy/best member": max(members)} if members else {}
    )
    others = {f"accuracy/{row['label'].replace(',', '')}": row["accuracy"] for row in rows if row["kind"] != "member"}
    return single | others


def terminal_table(folder: Path) -> Table:
    """The table of a written report, for the terminal. Raises ValueError if the folder holds no report."""
    rows = read_rows(folder, STEM)
    caption = f"{seeds_text(rows)}. {LEGEND}"
    return console_table("network", rows, shown(COLUMNS, rows), _group, caption)


def _group(row: Row) -> str:
    """What is set apart by a line: members, ensembles, and each method."""
    return str(row["series"] if row["kind"] == "fused" else row["kind"])


def _markdown(rows: Sequence[Row], title: str) -> str:
    table = markdown_table("network", rows, shown(COLUMNS, rows))
    return f"**{title}**\n\n{table}\n\n{seeds_text(rows)}. {LEGEND}\n"


def _shade(accuracy: float | None) -> tuple[str, float]:
    """The accuracy in percent, and how strongly to colour its cell: from nothing at 100 % to full at 50 %."""
    return ("", 0.0) if accuracy is None else (percent(accuracy), round(min(1.0, 2 * (1 - accuracy)), 3))
