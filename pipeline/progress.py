"""How a run looks while it runs: a live table on a terminal, one plain line per finished step elsewhere."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from pipeline.artifact import Record
from pipeline.execute import Event
from pipeline.plan import time_text
from pipeline.step import Step

MOST_METRICS = 3
STYLES = {
    "cached": "dim",
    "built": "green",
    "failed": "bold red",
    "skipped": "yellow",
    "running": "cyan",
    "waiting": "dim",
}


@contextmanager
def shown(steps: Sequence[Step], root: Path, console: Console) -> Iterator[Callable[[Event], None]]:
    """A listener for the events of a run, shown as the console allows."""
    if not console.is_terminal:
        yield lambda event: console.print(_line(event), soft_wrap=True, highlight=False, markup=False)
        return
    table = LiveTable(steps, root)
    with Live(table, console=console, refresh_per_second=4):
        yield table.hear


class LiveTable:
    """One row per step; what is being built is read off the folder it is built in, wherever the worker runs."""

    def __init__(self, steps: Sequence[Step], root: Path) -> None:
        self._steps, self._root = steps, root
        self._ended: dict[str, Event] = {}
        self._start = time.time()

    def hear(self, event: Event) -> None:
        """Take note of a step that ended."""
        self._ended[event.step.fingerprint] = event

    def __rich__(self) -> Table:
        table = Table("step", "state", "time", "latest", box=None, pad_edge=False)
        for step in self._steps:
            state, seconds, note = self._row(step)
            table.add_row(step.key, state, time_text(seconds) if seconds else "", note, style=STYLES[state])
        return table

    def _row(self, step: Step) -> tuple[str, float | None, str]:
        if event := self._ended.get(step.fingerprint):
            return event.kind, event.record.seconds if event.record else None, _note(event)
        folder = self._root / ".building" / step.key
        try:
            started = (folder / "out").stat().st_mtime
        except FileNotFoundError:
            return "waiting", None, ""
        if started < self._start:
            return "waiting", None, ""  # What an earlier run that was killed left there.
        return "running", time.time() - started, _latest(folder / "curves.jsonl")


def summary(record: Record) -> str:
    """The first few numbers of a record."""
    numbers = [(name, value) for name, value in record.metrics.items() if isinstance(value, float)]
    return "  ".join(f"{name}={value:.4g}" for name, value in numbers[:MOST_METRICS])


def _line(event: Event) -> str:
    seconds = time_text(event.record.seconds) if event.record else ""
    return f"{event.kind:8}{event.step.key}  {seconds:>8}  {_note(event)}".rstrip()


def _note(event: Event) -> str:
    if event.error:
        return str(event.error).strip().splitlines()[-1]
    return summary(event.record) if event.record else "an input failed"


def _latest(curves: Path) -> str:
    """The newest values that a running step logged."""
    try:
        with curves.open("rb") as file:
            file.seek(max(0, curves.stat().st_size - 4096))
            row = json.loads(file.read().splitlines()[-1])
    except (FileNotFoundError, IndexError, json.JSONDecodeError):
        return ""  # Nothing logged yet, or a line half-written.
    values = list(row["metrics"].items())[-MOST_METRICS:]
    return f"{row['step']}: " + "  ".join(f"{name}={value:.4g}" for name, value in values)
