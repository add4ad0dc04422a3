"""How good the autoencoders of a robustness experiment are: a table of its report, a row for each way to make them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from amalgam.pipeline.reports.builder import read_rows
from amalgam.pipeline.reports.tables import (
    DEVIATION,
    HIGH,
    LOW,
    Column,
    Row,
    console_table,
    markdown_table,
    percent,
    shown,
    spread,
)
from amalgam.tasks.scoring.results import Result, results_frame

SAES_STEM = "autoencoders"
STABILITY = "atoms/stability"
ROLES = {"id": "in distribution", "seen": "seen shifts", "unseen": "unseen shifts"}
AFTER, BEFORE = "reconstruction_accuracy", "accuracy"  # of the zero-shot head
COLUMNS = (
    *(Column(f"FVU {name}", f"{role}/fvu", "{:.3f}".format, deviation=DEVIATION) for role, name in ROLES.items()),
    Column("L0", "id/l0", "{:.1f}".format),
    Column("dead %", "id/dead_share", percent, deviation=DEVIATION),
    *(Column(f"accuracy {name}", f"{role}/{AFTER}", percent, deviation=DEVIATION) for role, name in ROLES.items()),
    *(Column(f"monosem. {name}", f"{role}/monosemanticity", "{:.2f}".format) for role, name in ROLES.items()),
    Column("stability", STABILITY, "{:.2f}".format, deviation=DEVIATION),
)
IN_CONSOLE = (
    *(
        Column(name, f"{role}/fvu", "{:.2f}".format)
        for role, name in zip(ROLES, ("FVU", "seen", "unseen"), strict=True)
    ),
    Column("L0", "id/l0", "{:.1f}".format),
    Column("dead", "id/dead_share", percent),
    *(Column(name, f"{role}/{AFTER}", percent) for role, name in zip(ROLES, ("acc.", "seen", "unseen"), strict=True)),
    Column("stab.", STABILITY, "{:.2f}".format),
)
CAPTION = "FVU and accuracy are in distribution, on seen and on unseen shifts; shares but FVU in %."
LEGEND = (
    "FVU: the share of the variance of frozen test features, as the autoencoder reads them, that it leaves "
    "unexplained; above 1 their mean would do better. L0: latents that an image activates. Dead: latents that none of "
    "500 random test images in distribution activates. Accuracy in %: of the zero-shot head on reconstructions. "
    "Monosem.: how alike the features of images that activate a latent are, weighted by activation, mean over "
    "latents; in the first row of any two images, which is what chance gives. Stability: mean cosine of matched atoms "
    "of two seeds. FVU, accuracy and monosem. are means over styles, and all are means over autoencoders that differ "
    "in their seed; deviations are not paired."
)
UNTOUCHED = "no autoencoder"
"""The row of the features themselves: their accuracy, and how alike they are."""


def quality_rows(results: Sequence[Result]) -> list[Row]:
    """Mean and deviation over seeds, by name and measure, of the means that each seed's `sae_quality` step writes."""
    frame = results_frame(result for result in results if result.network.member is None)
    rows = list[Row]()
    for network, of_network in frame.groupby("network", sort=False):
        row: Row = {"label": network.method, "seeds": of_network["seed"].nunique()}
        for measure, values in of_network.groupby("measure", sort=False)["value"]:
            row |= spread(measure, values.tolist())
        rows.append(row)
    return rows


def compared_measures(rows: Sequence[Row]) -> dict[str, float]:
    """What MLflow should compare, such as `sae/seen/fvu/k 8`."""
    return {
        f"sae/{column.measure}/{row['label']}": row[column.measure]
        for row in rows
        for column in COLUMNS
        if row.get(column.measure) is not None
    }


def console_qualities(folder: Path) -> Table:
    """The table of a written report for the terminal."""
    rows = _with_untouched(read_rows(folder, SAES_STEM))
    return console_table("autoencoders", rows, shown(IN_CONSOLE, rows), lambda row: row["label"] == UNTOUCHED, CAPTION)


def markdown_qualities(rows: Sequence[Row]) -> str:
    """The table and what its words mean, in Markdown."""
    every = _with_untouched(rows)
    return f"{markdown_table('autoencoders', every, shown(COLUMNS, every))}\n\n{LEGEND}\n"


def page_qualities(rows: Sequence[Row]) -> dict[str, Any]:
    """The table for the page."""
    every = _with_untouched(rows)
    columns = shown(COLUMNS, every)
    return {
        "legend": LEGEND,
        "headings": [column.heading for column in columns],
        "rows": [
            {"label": row["label"], "kind": "", "cells": [(column.cell(row), False) for column in columns]}
            for row in every
        ],
    }


def _with_untouched(rows: Sequence[Row]) -> list[Row]:
    """The rows below one of the features themselves, which are the same for all."""
    first: Row = {"label": UNTOUCHED}
    for role in ROLES:
        first[f"{role}/monosemanticity"] = rows[0].get(f"{role}/similarity")
        for end in ("", DEVIATION, LOW, HIGH):
            first[f"{role}/{AFTER}{end}"] = rows[0].get(f"{role}/{BEFORE}{end}")
    return [first, *rows]
