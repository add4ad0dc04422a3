"""How a run looks: one line per step as it ends; on a terminal, the running ones live below."""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.table import Table

from amalgam.pipeline.cli.errors import sentence
from amalgam.pipeline.cli.plan import time_text
from amalgam.pipeline.console import output
from amalgam.pipeline.engine.build import LIVE_CURVES, STARTED
from amalgam.pipeline.engine.execute import Event
from amalgam.pipeline.engine.place import Place
from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.store.artifact import Record
from amalgam.pipeline.store.canonical import canonical
from amalgam.pipeline.store.record_text import titles

IN_A_JOB = "AMALGAM_SUBMISSION_ID"  # set by `amalgam submit`: far from the root a name says more than a key
MOST_METRICS = 3
STYLES = {"cached": "dim", "built": "green", "failed": "bold red", "damaged": "yellow"}


@contextmanager
def shown(steps: Sequence[Step], root: Path) -> Iterator[Callable[[Event], None]]:
    """A listener for the events of a run: one line per step as it ends, and below them those that run."""
    console, running = output(), Running(steps, root)
    names = step_titles(steps) if IN_A_JOB in os.environ else {}

    def hear(event: Event) -> None:
        running.heard(event)
        if event.kind == "skipped":  # One line for all of them, or they would hide the sentence that counts.
            return
        count = f"{len(running.ended)}/{len(steps)} " if names else ""
        name = names.get(event.step.fingerprint, event.step.key)
        console.print(
            count + _line(event, name), style=STYLES[event.kind], soft_wrap=True, highlight=False, markup=False
        )

    try:
        if console.is_terminal:
            with Live(running, console=console, refresh_per_second=4, transient=True):
                yield hear
        else:
            yield hear
    finally:
        if waiting := running.num_skipped:
            console.print(f"{waiting} step{'s' * (waiting > 1)} skipped: an input failed", style="yellow")


class Running:
    """One row per step being built, read off the folder it is built in, wherever its worker is."""

    def __init__(self, steps: Sequence[Step], root: Path) -> None:
        self._steps, self._place = steps, Place(root)
        self._start = time.time()
        self.ended = set[str]()
        self.num_skipped = 0

    def heard(self, event: Event) -> None:
        """Count a step as ended, or one that was damaged as to be built again."""
        change = self.ended.discard if event.kind == "damaged" else self.ended.add
        change(event.step.fingerprint)
        self.num_skipped += event.kind == "skipped"

    def __rich__(self) -> Table:
        table = Table(box=None, pad_edge=False, show_header=False)
        rows = [self._row(step) for step in self._steps if step.fingerprint not in self.ended]
        for row in filter(None, rows):
            table.add_row(*row, style="cyan")
        table.add_row(f"{len(self.ended)} of {len(self._steps)} steps done", "", "", style="bold")
        return table

    def _row(self, step: Step) -> tuple[str, str, str] | None:
        folder = self._place.building(step)
        try:
            started = (folder / STARTED).stat().st_mtime
        except OSError:
            return None  # Not begun, or removed a moment ago.
        if started < self._start:
            return None  # What an earlier run that was killed left there.
        return f"running {step.key}", time_text(max(0.0, time.time() - started)), _latest(folder / LIVE_CURVES)


def summary(record: Record) -> str:
    """The first few numbers of a record."""
    numbers = [(name, value) for name, value in record.metrics.items() if isinstance(value, float)]
    return "  ".join(f"{name}={value:.4g}" for name, value in numbers[:MOST_METRICS])


def step_titles(steps: Sequence[Step]) -> dict[str, str]:
    """A name for each step, by fingerprint, as MLflow shows it: its kind and what sets it apart."""
    fields: list[dict[str, Any]] = [
        {"name": step.name, "fingerprint": step.fingerprint, "config": canonical(step.config)}
        | {"inputs": step.identity["inputs"]}
        for step in steps
    ]
    return titles([Record.model_construct(**each) for each in fields])


def _line(event: Event, name: str) -> str:
    seconds = time_text(event.record.seconds) if event.record else ""
    return f"{event.kind:8}{name}  {seconds:>8}  {_note(event)}".rstrip()


def _note(event: Event) -> str:
    if isinstance(event.error, ValueError):
        return sentence(event.error)
    if event.error:
        return f"{type(event.error).__name__}: {event.error}".strip().splitlines()[-1]
    return "; ".join([summary(event.record), *event.record.notes]) if event.record else event.note


def _latest(curves: Path) -> str:
    """The newest values that a running step logged."""
    try:
        with curves.open("rb") as file:
            file.seek(max(0, curves.stat().st_size - 4096))
            row = json.loads(file.read().splitlines()[-1])
    except (OSError, IndexError, ValueError):
        return ""  # Nothing logged yet, or a line half-written.
    values = list(row["metrics"].items())[-MOST_METRICS:]
    return f"{row['step']}: " + "  ".join(f"{name}={value:.4g}" for name, value in values)
