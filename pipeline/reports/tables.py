"""Tables for people: columns over rows of numbers, for the terminal, for Markdown and for pages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table

from amalgam.tasks.scoring.seeds import over_seeds

DEVIATION, LOW, HIGH = "_std", "_low", "_high"
PAIRED = "_std_paired"  # deviation over seeds once each seed's mean over all rows is subtracted
MINUS = "\N{MINUS SIGN}"
INTERVALS = "Intervals are 95 % by Student's t over the seeds."
Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """One column of a table for people."""

    heading: str
    measure: str
    text: Callable[[Any], str]
    deviation: str = ""
    """End of the name of the deviation over seeds that is written too, `DEVIATION` or `PAIRED`; empty writes none."""
    interval: bool = False
    """Whether it shows the ends of the interval of the mean over seeds instead of the mean."""

    def cell(self, row: Row) -> str:
        """What stands in a row; nothing where it was not measured."""
        value = row.get(self.measure)
        low, high, deviation = (row.get(self.measure + end) for end in (LOW, HIGH, self.deviation))
        if self.interval:
            return "" if low is None or high is None else f"{self.text(low)} to {self.text(high)}"
        if value is None:
            return ""
        return (
            f"{self.text(value)} ± {self.text(deviation)}"
            if self.deviation and deviation is not None
            else (self.text(value))
        )


def shown(columns: Sequence[Column], rows: Sequence[Row]) -> list[Column]:
    """The columns that have a value in some row."""
    return [column for column in columns if any(column.cell(row) for row in rows)]


def console_table(
    heading: str, rows: Sequence[Row], columns: Sequence[Column], kind: Callable[[Row], Any], caption: str
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


def markdown_table(heading: str, rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """Rows by their labels in Markdown, as MLflow shows them in the note of a run; all other columns are numbers."""
    lines = [[row["label"], *(column.cell(row) for column in columns)] for row in rows]
    table = [[heading, *(c.heading for c in columns)], ["---", *["---:"] * len(columns)], *lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in table)


def seeds_text(rows: Sequence[Row]) -> str:
    """Over how many seeds the rows are means."""
    seeds = max(row["seeds"] for row in rows)
    return f"Mean ± standard deviation over {seeds} seeds" if seeds > 1 else "One seed"


def spread(name: str, values: Sequence[float]) -> Row:
    """Mean, deviation and interval over seeds under one name; None where there are too few values."""
    if not values:
        return {name: None}
    found = over_seeds(values)
    return {name: found.mean, name + DEVIATION: found.std, name + LOW: found.low, name + HIGH: found.high}


def percent(value: float) -> str:
    """A share in percent."""
    return f"{100 * value:.1f}"


def points(value: float) -> str:
    """A difference of shares in percentage points, signed."""
    return f"{100 * value:+.1f}".replace("-", MINUS)


def plain(text: str) -> str:
    r"""The text as matplotlib draws it letter by letter: a name such as `$\frac{$` is no formula."""
    return text.replace("$", r"\$")
