"""The report of merging as files: `merging.html` (one file, nothing to fetch), `.md`, `.csv` and `.parquet`."""

from collections.abc import Mapping, Sequence
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
    write_rows,
)
from amalgam.pipeline.reports.merging.table import TASK, merge_table, verdicts
from amalgam.tasks.scoring.results import Result

STEM = "merging"
LEGEND = (
    "Settings are chosen by mean accuracy on validation images, each method from the same grid of scales; accuracies "
    "are on test images. worst: the task recognised worst. edge: share of seeds in which the largest scale won. "
    "eta: what the flat mean loses to the curved one by the tasks' own curvatures."
)
PAIRS = (
    ("EpiMer", ("TSVM", "RegMean", "IsoC", "TaskArithmetic", "EpiMer raw")),
    ("Fisher exact", ("Fisher batch", "Average")),
)
"""What the sentences compare."""
COLUMNS = (
    Column("mean %", "accuracy", percent, deviation=True),
    Column("worst %", "worst", percent, deviation=True),
    Column("validation %", "validation", percent),
    Column("scale", "scale", "{:.2f}".format),
    Column("edge", "at_edge", "{:.1f}".format),
    Column("eta", "eta", "{:.3g}".format),
)


def write_report(
    results: Sequence[Result],
    folder: Path,
    title: str,
    config: Mapping[str, Any],
    provenance: Sequence[Mapping[str, Any]],
) -> dict[str, float]:
    """Write the report into a folder and return every row's mean and worst accuracy."""
    rows = merge_table(results)
    said = [sentence for ours, others in PAIRS for sentence in verdicts(results, ours, others)]
    write_rows(rows, folder, STEM)
    (folder / f"{STEM}.md").write_text(_markdown(rows, title, said))
    columns = columns_of(rows)
    page = render(
        "merging.html.j2",
        title=title,
        subtitle=seeds_text(rows),
        legend=LEGEND,
        said=said,
        headings=[column.heading for column in columns],
        cells=[(row["label"], [column.cell(row) for column in columns]) for row in rows],
        config=config,
        provenance=provenance,
    )
    (folder / f"{STEM}.html").write_text(page)
    return {f"{name}/{row['label']}": row[name] for row in rows for name in ("accuracy", "worst")}


def columns_of(rows: Sequence[Row]) -> list[Column]:
    """The summary, then every task."""
    tasks = dict.fromkeys(name for row in rows for name in row if name.startswith(TASK) and not name.endswith("_std"))
    return shown([*COLUMNS, *(Column(name.removeprefix(TASK), name, percent) for name in tasks)], rows)


def terminal_table(folder: Path) -> Table:
    """The table of a written report, for the terminal. Raises ValueError if the folder holds no report."""
    rows = read_rows(folder, STEM)
    columns = [column for column in columns_of(rows) if not column.measure.startswith(TASK)]
    return console_table("method", rows, columns, lambda row: "", f"{seeds_text(rows)}. {LEGEND}")


def _markdown(rows: Sequence[Row], title: str, said: Sequence[str]) -> str:
    columns = columns_of(rows)
    lines = [[row["label"], *(column.cell(row) for column in columns)] for row in rows]
    table = markdown_table(["method", *(column.heading for column in columns)], lines)
    sentences = "\n".join(f"* {sentence}" for sentence in said)
    return f"**{title}**\n\n{table}\n\n{seeds_text(rows)}. {LEGEND}\n\n{sentences}\n"
