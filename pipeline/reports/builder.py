"""The one way to write a report: tables as CSV and Parquet, pictures, texts, and a page that fetches nothing.

A report is a value; what is particular to one kind is how its rows, figures and sentences come about, and its template.
"""

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from amalgam.pipeline.reports.tables import Row
from amalgam.pipeline.store.artifact import Record
from amalgam.pipeline.store.tables.parquet_stream import reading

PICTURE_DPI = 100  # 1200 pixels wide: MLflow shows pictures in notes unscaled


@dataclass(frozen=True)
class Report:
    """Everything a report consists of."""

    stem: str
    """Start of the names of its files: `{stem}.html`, and `{stem}.png` of the figure of that name."""
    title: str
    template: str
    """Of `reports/templates`."""
    settings: Mapping[str, Any]
    """How it was made, for its readers."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """What the template reads besides."""
    tables: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    """Rows by the stem of their files."""
    figures: dict[str, Figure] = field(default_factory=dict)
    """By name, also written as `{name}.png`; the page finds each as `drawings[name]`, SVG in base64."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Contents of other files by name, such as the Markdown that MLflow shows."""
    provenance: Sequence[Record] = ()
    """Records of the steps that it was made from."""
    charts: dict[str, Figure] = field(default_factory=dict)
    """Figures that stand in the page alone, as `drawings[name]` too."""

    def write(self, folder: Path) -> None:
        """Write all files into an existing folder, the page last."""
        for stem, rows in self.tables.items():
            write_rows(rows, folder, stem)
        for name, figure in self.figures.items():
            figure.savefig(folder / f"{name}.png", dpi=PICTURE_DPI)
        drawings = {name: _drawn(figure) for name, figure in (self.figures | self.charts).items()}
        for name, text in self.texts.items():
            (folder / name).write_text(text)
        page = _template(self.template).render(
            title=self.title, config=self.settings, drawings=drawings, provenance=_steps(self.provenance), **self.values
        )
        (folder / f"{self.stem}.html").write_text(page)


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
    with reading(file, "report"):
        return pq.read_table(file).to_pylist()


def _drawn(figure: Figure) -> str:
    """The figure as SVG in base64, for a page."""
    drawing = io.BytesIO()
    figure.savefig(drawing, format="svg")
    return base64.b64encode(drawing.getvalue()).decode()


def _template(name: str) -> Any:
    """A template, every value escaped and none missing."""
    place = FileSystemLoader(Path(__file__).parent / "templates")
    return Environment(loader=place, autoescape=True, undefined=StrictUndefined).get_template(name)


def _steps(records: Sequence[Record]) -> list[dict[str, Any]]:
    return [
        {
            "step": record.name,
            "fingerprint": record.fingerprint,
            "seconds": round(record.seconds, 1),
            "commit": (record.git_commit or "")[:10],
        }
        for record in records
    ]


def _one_cell(value: Any) -> Any:
    """Several numbers as one text."""
    return "/".join(f"{item:g}" for item in value) if isinstance(value, tuple) else value
