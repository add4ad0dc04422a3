"""The report of merging as files: `merging.html` (one file, nothing to fetch), `.md`, `.csv` and `.parquet`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from amalgam.pipeline.reports.builder import Report, read_rows
from amalgam.pipeline.reports.merging.table import TASK, merge_table, verdicts
from amalgam.pipeline.reports.tables import (
    DEVIATION,
    HIGH,
    LOW,
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

STEM = "merging"
ENDS = (DEVIATION, LOW, HIGH)
LEGEND = (
    "Settings are chosen by mean accuracy on validation images, each method from the same grid of scales; accuracies "
    "are on test images. worst: the task recognised worst. edge: share of seeds in which the largest scale won. "
    "eta: what the flat mean loses to the curved one by the tasks' own curvatures."
)
CHECKPOINT_RIVALS = ("uniform", "last", "best", "EMA")
PAIRS = (
    ("EpiMer", ("TSVM", "RegMean", "IsoC", "TaskArithmetic", "EpiMer raw")),
    ("Fisher exact", ("Fisher batch", "Average")),
    ("full MWA loss", tuple(f"full {rival}" for rival in CHECKPOINT_RIVALS)),
    ("LoRA MWA loss, product", ("LoRA uniform, product", "LoRA last", "LoRA best", "LoRA EMA, product")),
    ("LoRA uniform, product", ("LoRA uniform, factors",)),
)
"""What the sentences compare."""
COLUMNS = (
    Column("mean %", "accuracy", percent, deviation=True),
    Column("worst %", "worst", percent, deviation=True),
    Column("validation %", "validation", percent),
    Column("scale", "scale", "{:.2f}".format),
    Column("penalty", "penalty", "{:.2f}".format),
    Column("decay", "decay", "{:.2f}".format),
    Column("edge", "at_edge", "{:.1f}".format),
    Column("eta", "eta", "{:.3g}".format),
)


def merge_report(
    results: Sequence[Result], title: str, settings: Mapping[str, Any], provenance: Sequence[Record] = ()
) -> tuple[Report, dict[str, float]]:
    """The report of some results, and its headline: every row's mean and worst accuracy."""
    rows = merge_table(results)
    found = [sentence for ours, others in PAIRS for sentence in verdicts(results, ours, others)]
    columns = columns_of(rows)
    values = {
        "subtitle": seeds_text(rows),
        "legend": LEGEND,
        "sentences": found,
        "headings": [column.heading for column in columns],
        "cells": [(row["label"], [column.cell(row) for column in columns]) for row in rows],
    }
    texts = {f"{STEM}.md": _markdown(rows, title, found)}
    report = Report(STEM, title, "merging.html.j2", settings, values, {STEM: rows}, {}, texts, provenance)
    return report, {
        f"{name}/{row['label']}": row[name] for row in rows for name in ("accuracy", "worst") if name in row
    }


def columns_of(rows: Sequence[Row]) -> list[Column]:
    """The summary, then every task."""
    tasks = dict.fromkeys(name for row in rows for name in row if name.startswith(TASK) and not name.endswith(ENDS))
    return shown([*COLUMNS, *(Column(name.removeprefix(TASK), name, percent) for name in tasks)], rows)


def terminal_table(folder: Path) -> Table:
    """The table of a written report, for the terminal. Raises ValueError if the folder holds no report."""
    rows = read_rows(folder, STEM)
    columns = [column for column in columns_of(rows) if not column.measure.startswith(TASK)]
    return console_table("method", rows, columns, lambda row: "", f"{seeds_text(rows)}. {LEGEND}")


def _markdown(rows: Sequence[Row], title: str, sentences: Sequence[str]) -> str:
    listed = "\n".join(f"* {sentence}" for sentence in sentences)
    table = markdown_table("method", rows, columns_of(rows))
    return f"**{title}**\n\n{table}\n\n{seeds_text(rows)}. {LEGEND}\n\n{listed}\n"
