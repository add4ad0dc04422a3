"""The report of an experiment: its results as one frontier table, picture and page.

`write_report` makes `frontier.png`, `.html` (one file, nothing to fetch), `.csv`, `.parquet` and `.md`.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

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
from amalgam.pipeline.reports.frontier.figure import frontier_figure
from amalgam.pipeline.reports.frontier.table import RELATIVE, class_measures, frontier_table


def _times(value: float) -> str:
    return f"{value:.2f}x"


COLUMNS = (
    Column("accuracy %", "accuracy", percent, deviation=True),
    Column("NLL", "nll", "{:.3f}".format),
    Column("ECE %", "calibration_error", percent),
    Column("params", RELATIVE + "nonzero_parameters", _times),
    Column("FLOPs", RELATIVE + "nonzero_flops", _times),
    Column("stored", RELATIVE + "parameters", _times),
    Column("ms", "latency_ms", "{:.2f}".format),
)
STEM = "frontier"
LEGEND = (
    "alpha a: partial fusion in which a share a of each layer's units stays alone; at 0 (aligned) it is one network, "
    "at 1 the logit ensemble. params and FLOPs count nonzeros, stored counts all parameters, as multiples of one "
    "member. ECE: expected calibration error. ms: one image, forward."
)


def write_report(
    results: Iterable[Mapping[str, Any]],
    folder: Path,
    title: str,
    config: Mapping[str, Any],
    provenance: Sequence[Mapping[str, Any]],
) -> dict[str, float]:
    """Write the report into a folder and return its headline: the mean accuracy of everything but single members.

    `results` are as `frontier_table` takes them, `provenance` one mapping per step with the same keys.
    """
    rows = frontier_table(results)
    write_rows(rows, folder, STEM)
    drawing = write_picture(frontier_figure(rows, title), folder / f"{STEM}.png")
    (folder / f"{STEM}.md").write_text(_markdown(rows, title))
    (folder / f"{STEM}.html").write_text(_page(rows, drawing, title, config, provenance))
    return headline(rows)


def headline(rows: Sequence[Row]) -> dict[str, float]:
    """Mean accuracy by name: the mean and best member, the ensembles, every fused network."""
    members = [row["accuracy"] for row in rows if row["role"] == "member"]
    single = (
        {"accuracy/mean member": sum(members) / len(members), "accuracy/best member": max(members)} if members else {}
    )
    return single | {
        f"accuracy/{row['label'].replace(',', '')}": row["accuracy"] for row in rows if row["role"] != "member"
    }


def terminal_table(folder: Path) -> Table:
    """The table of a written report, for the terminal. Raises ValueError if the folder holds no report."""
    rows = read_rows(folder, STEM)
    caption = f"{seeds_text(rows)}. {LEGEND}"
    return console_table("network", rows, shown(COLUMNS, rows), _kind, caption)


def _markdown(rows: Sequence[Row], title: str) -> str:
    columns = shown(COLUMNS, rows)
    lines = [[row["label"], *(column.cell(row) for column in columns)] for row in rows]
    table = markdown_table(["network", *(column.heading for column in columns)], lines)
    return f"**{title}**\n\n{table}\n\n{seeds_text(rows)}. {LEGEND}\n"


def _page(
    rows: Sequence[Row], drawing: str, title: str, config: Mapping[str, Any], provenance: Sequence[Mapping[str, Any]]
) -> str:
    columns, classes = shown(COLUMNS, rows), class_measures(rows)
    return render(
        "report.html.j2",
        title=title,
        subtitle=seeds_text(rows),
        legend=LEGEND,
        drawing=drawing,
        headings=[column.heading for column in columns],
        cells=[(row["label"], _kind(row), [column.cell(row) for column in columns]) for row in rows],
        classes=[name.removeprefix("accuracy_class_") for name in classes],
        class_cells=[(row["label"], [_shade(row.get(name)) for name in classes]) for row in rows],
        config=config,
        provenance=provenance,
    )


def _kind(row: Row) -> str:
    """What is set apart by a line in tables: all ensembles are one kind."""
    return row["role"].split()[-1]


def _shade(accuracy: float | None) -> tuple[str, float]:
    """The accuracy in percent, and how strongly to colour its cell: from nothing at 100 % to full at 50 %."""
    return ("", 0.0) if accuracy is None else (percent(accuracy), round(min(1.0, 2 * (1 - accuracy)), 3))
