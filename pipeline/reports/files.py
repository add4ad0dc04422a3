"""What all reports are written with: rows as CSV and Parquet, tables in Markdown, pages that fetch nothing."""

import base64
import csv
import io
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from amalgam.pipeline.store.artifact import Record

PICTURE_DPI = 100  # 1200 pixels wide: MLflow shows pictures in notes unscaled
DEVIATION = "_std"
MINUS = "\N{MINUS SIGN}"
Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """One column of a table for people."""

    heading: str
    measure: str
    text: Callable[[Any], str]
    deviation: bool = False
    """Whether the deviation over seeds is written too."""

    def cell(self, row: Row) -> str:
        """What stands in a row; nothing where it was not measured."""
        value = row.get(self.measure)
        if value is None:
            return ""
        deviation = row.get(self.measure + DEVIATION) if self.deviation else None
        return self.text(value) if deviation is None else f"{self.text(value)} ± {self.text(deviation)}"


def shown(columns: Sequence[Column], rows: Sequence[Row]) -> list[Column]:
    """The columns that have a value in some row."""
    return [column for column in columns if any(row.get(column.measure) is not None for row in rows)]


def console_table(
    heading: str, rows: Sequence[Row], columns: Sequence[Column], kind: Callable[[Row], str], caption: str
) -> Table:
    """Rows by their labels for the terminal, with a line between kinds."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    table.add_column(heading, overflow="fold")
    for column in columns:
        table.add_column(column.heading, justify="right", no_wrap=True)
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        last_of_kind = following is not None and kind(following) != kind(row)
        table.add_row(row["label"], *(column.cell(row) for column in columns), end_section=last_of_kind)
    return table


def write_rows(rows: Sequence[Row], folder: Path, stem: str) -> None:
    """Write `{stem}.csv` and `{stem}.parquet`, the label first; what a row lacks is empty."""
    columns = ["label", *dict.fromkeys(name for row in rows for name in row if name != "label")]
    with (folder / f"{stem}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({name: _one_cell(value) for name, value in row.items()} for row in rows)
    values = {name: [row.get(name) for row in rows] for name in columns}
    pq.write_table(pa.table(values), folder / f"{stem}.parquet")


def read_rows(folder: Path, stem: str) -> list[Row]:
    """The rows of a report. Raises ValueError if the folder holds none."""
    file = folder / f"{stem}.parquet"
    try:
        return pq.read_table(file).to_pylist()
    except FileNotFoundError:
        raise ValueError(f"no report lies in {folder}: it has no {file.name}") from None
    except pa.ArrowException as error:
        raise ValueError(f"{file} is cut short or damaged: delete its folder to build it again") from error


def markdown_table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, as MLflow shows it in the note of a run; all columns but the first are numbers."""
    table = [headings, ["---", *["---:"] * (len(headings) - 1)], *lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in table)


def write_picture(figure: Figure, file: Path) -> str:
    """Write the figure as PNG; the same figure as SVG in base64, for a page."""
    figure.savefig(file, dpi=PICTURE_DPI)
    drawing = io.BytesIO()
    figure.savefig(drawing, format="svg")
    return base64.b64encode(drawing.getvalue()).decode()


def render(template: str, **values: Any) -> str:
    """A page of `reports/templates`, every value escaped and none missing."""
    place = FileSystemLoader(Path(__file__).parent / "templates")
    return Environment(loader=place, autoescape=True, undefined=StrictUndefined).get_template(template).render(**values)


def made_from(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The steps that a report was made from, for its readers."""
    return [
        {
            "step": record.name,
            "fingerprint": record.fingerprint,
            "seconds": round(record.seconds, 1),
            "commit": (record.git_commit or "")[:10],
        }
        for record in records
    ]


def seeds_text(rows: Sequence[Row]) -> str:
    """Over how many seeds the rows are means."""
    seeds = max(row["seeds"] for row in rows)
    return f"Mean ± standard deviation over {seeds} seeds" if seeds > 1 else "One seed"


def mean_and_deviation(name: str, values: Sequence[float]) -> Row:
    """Mean and sample standard deviation under one name; None where there are too few values."""
    return {
        name: statistics.fmean(values) if values else None,
        name + DEVIATION: statistics.stdev(values) if len(values) > 1 else None,
    }


def percent(value: float) -> str:
    """A share in percent."""
    return f"{100 * value:.1f}"


def points(value: float) -> str:
    """A difference of shares in percentage points, signed."""
    return f"{100 * value:+.1f}".replace("-", MINUS)


def _one_cell(value: Any) -> Any:
    """Several numbers as one text."""
    return "/".join(f"{item:g}" for item in value) if isinstance(value, tuple) else value
