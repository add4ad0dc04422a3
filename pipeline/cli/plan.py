"""What a run would do: which steps are built, which are found, how many bytes and roughly how long."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.table import Table

from amalgam.pipeline.engine.place import found, missing
from amalgam.pipeline.engine.step import Step, ancestors
from amalgam.pipeline.store.storage import storage_of

State = Literal["cached", "to run", "not needed"]


@dataclass(frozen=True)
class Forecast:
    """One line of the plan."""

    step: Step
    state: State
    bytes: float | None
    """Expected, or measured if cached; None where nothing is known."""
    seconds: float | None


def forecast(targets: Sequence[Step], root: Path) -> list[Forecast]:
    """One forecast per step, inputs first: from its record, else from steps of its kind, else its own guess."""
    cached = found(targets, root)
    wanted = {step.fingerprint for step in missing(targets, root, cached)}
    costs: dict[str, tuple[float | None, float | None]] = {}
    lines = []
    for step in ancestors(targets):
        if step.fingerprint in cached:
            _, record = cached[step.fingerprint]
            lines.append(Forecast(step, "cached", record.bytes, record.seconds))
            continue
        if step.name not in costs:
            costs[step.name] = _usual_cost(step, root)
        state: State = "to run" if step.fingerprint in wanted else "not needed"
        lines.append(Forecast(step, state, *costs[step.name]))
    return lines


def plan_table(lines: Sequence[Forecast]) -> Table:
    """The plan as a table, one row per step."""
    table = Table("step", "state", box=None, pad_edge=False)
    table.add_column("size", justify="right")
    table.add_column("time", justify="right")
    for line in lines:
        table.add_row(line.step.key, line.state, size_text(line.bytes), time_text(line.seconds))
    return table


def totals(lines: Sequence[Forecast]) -> str:
    """One sentence: how much is left to do, and how long at best."""
    todo = [line for line in lines if line.state == "to run"]
    cached = sum(line.state == "cached" for line in lines)
    if not todo:
        return f"nothing to run: {cached} steps are built already"
    unknown = sum(line.seconds is None for line in todo)
    size = size_text(sum(line.bytes or 0 for line in todo))
    work = time_text(sum(line.seconds or 0 for line in todo))
    path = time_text(_longest_path(todo))
    rest = f"; {unknown} of them of unknown cost" if unknown else ""
    return f"{len(todo)} steps to run, {cached} cached: about {size}, {work} of work, {path} at best{rest}"


def check_space(lines: Sequence[Forecast], free: int) -> None:
    """Raise ValueError if what is to run is expected to need more than the free bytes."""
    needed = sum(line.bytes or 0 for line in lines if line.state == "to run")
    if needed > free:
        raise ValueError(f"about {size_text(needed)} are needed, but {size_text(free)} are free: choose another --root")


def size_text(size: float | None) -> str:
    """Bytes in decimal units."""
    if size is None:
        return "unknown"
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def time_text(seconds: float | None) -> str:
    """Seconds, or hours and minutes from two minutes on."""
    if seconds is None:
        return "unknown"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def _usual_cost(step: Step, root: Path) -> tuple[float | None, float | None]:
    if records := storage_of(root).survey(step.name).records:
        return statistics.median(r.bytes for r in records), statistics.median(r.seconds for r in records)
    return (step.expect.bytes, step.expect.seconds) if step.expect else (None, None)


def _longest_path(todo: Sequence[Forecast]) -> float:
    """Seconds that pass however many CPUs there are; steps come inputs first."""
    ends: dict[str, float] = {}
    for line in todo:
        start = max((ends.get(parent.fingerprint, 0.0) for parent in line.step.parents), default=0.0)
        ends[line.step.fingerprint] = start + (line.seconds or 0)
    return max(ends.values())
