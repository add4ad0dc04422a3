"""The report of an experiment: its results as one frontier table, picture and page.

`write_report` makes `frontier.png`, `.html` (one file, nothing to fetch), `.csv`, `.parquet` and `.md`.
"""

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich import box
from rich.table import Table

from pipeline.report_picture import frontier_figure
from pipeline.report_table import (
    DEVIATION,
    RELATIVE,
    Row,
    class_measures,
    frontier_table,
    read_table,
    write_table,
)


@dataclass(frozen=True)
class Column:
    """One column of the table for people."""

    heading: str
    measure: str
    text: Callable[[float], str]
    deviation: bool = False
    """Whether the deviation over seeds is written too."""


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _times(value: float) -> str:
    return f"{value:.2f}x"


COLUMNS = (
    Column("accuracy %", "accuracy", _percent, deviation=True),
    Column("NLL", "nll", "{:.3f}".format),
    Column("ECE %", "calibration_error", _percent),
    Column("params", RELATIVE + "nonzero_parameters", _times),
    Column("FLOPs", RELATIVE + "nonzero_flops", _times),
    Column("stored", RELATIVE + "parameters", _times),
    Column("ms", "latency_ms", "{:.2f}".format),
)
PICTURE_DPI = 100  # 1200 pixels wide: MLflow shows pictures in notes unscaled
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
    write_table(rows, folder)
    figure, drawing = frontier_figure(rows, title), io.BytesIO()
    figure.savefig(folder / "frontier.png", dpi=PICTURE_DPI)
    figure.savefig(drawing, format="svg")
    (folder / "frontier.md").write_text(markdown_table(rows, title))
    (folder / "frontier.html").write_text(_page(rows, drawing.getvalue(), title, config, provenance))
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
    rows = read_table(folder)
    caption = f"{_seeds(rows)}. {LEGEND}"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    table.add_column("network", overflow="fold")
    shown = _shown(rows)
    for column in shown:
        table.add_column(column.heading, justify="right", no_wrap=True)
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        last_of_kind = following is not None and _kind(following) != _kind(row)
        table.add_row(row["label"], *(_cell(row, column) for column in shown), end_section=last_of_kind)
    return table


def markdown_table(rows: Sequence[Row], title: str) -> str:
    """The table in Markdown, as MLflow shows it in the note of a run."""
    shown = _shown(rows)
    lines = [["network", *(column.heading for column in shown)], ["---", *["---:"] * len(shown)]]
    lines += [[row["label"], *(_cell(row, column) for column in shown)] for row in rows]
    body = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return f"**{title}**\n\n{body}\n\n{_seeds(rows)}. {LEGEND}\n"


def _page(
    rows: Sequence[Row], drawing: bytes, title: str, config: Mapping[str, Any], provenance: Sequence[Mapping[str, Any]]
) -> str:
    place = FileSystemLoader(Path(__file__).parent / "templates")
    template = Environment(loader=place, autoescape=True, undefined=StrictUndefined).get_template("report.html.j2")
    shown, classes = _shown(rows), class_measures(rows)
    return template.render(
        title=title,
        subtitle=_seeds(rows),
        legend=LEGEND,
        drawing=base64.b64encode(drawing).decode(),
        headings=[column.heading for column in shown],
        cells=[(row["label"], _kind(row), [_cell(row, column) for column in shown]) for row in rows],
        classes=[name.removeprefix("accuracy_class_") for name in classes],
        class_cells=[(row["label"], [_shade(row.get(name)) for name in classes]) for row in rows],
        config=config,
        provenance=provenance,
    )


def _kind(row: Row) -> str:
    """What is set apart by a line in tables: all ensembles are one kind."""
    return row["role"].split()[-1]


def _shown(rows: Sequence[Row]) -> list[Column]:
    return [column for column in COLUMNS if any(row.get(column.measure) is not None for row in rows)]


def _cell(row: Row, column: Column) -> str:
    value = row.get(column.measure)
    if value is None:
        return ""
    deviation = row.get(column.measure + DEVIATION) if column.deviation else None
    return column.text(value) if deviation is None else f"{column.text(value)} ± {column.text(deviation)}"


def _shade(accuracy: float | None) -> tuple[str, float]:
    """The accuracy in percent, and how strongly to colour its cell: from nothing at 100 % to full at 50 %."""
    return ("", 0.0) if accuracy is None else (_percent(accuracy), round(min(1.0, 2 * (1 - accuracy)), 3))


def _seeds(rows: Sequence[Row]) -> str:
    seeds = max(row["seeds"] for row in rows)
    return f"Mean ± standard deviation over {seeds} seeds" if seeds > 1 else "One seed"
