"""What lies under a root, for the terminal: the list of finished steps, one record, the result of an experiment."""

import importlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rich.table import Table

from amalgam.pipeline.cli.plan import size_text, time_text
from amalgam.pipeline.cli.progress import summary
from amalgam.pipeline.console import output, say
from amalgam.pipeline.store.artifact import Record, read_record
from amalgam.pipeline.store.storage import storage_of
from amalgam.pipeline.tracking.run_record import damaged_runs
from amalgam.tasks.user_names import unknown_name

NAMES = {".csv": "table", ".html": "page", ".png": "figure"}
REPORTS = {
    "frontier": "amalgam.pipeline.reports.frontier.page",
    "robustness": "amalgam.pipeline.reports.robustness.page",
    "merging": "amalgam.pipeline.reports.merging",
    "comparison": "amalgam.pipeline.reports.comparison",
}
"""The stem of the files that a report step writes, and the module that prints it."""


def steps_table(records: Sequence[Record]) -> Table:
    """One row per finished step, oldest first."""
    table = Table("step", "finished", "time", "size", "metrics", box=None, pad_edge=False)
    for record in records:
        when = datetime.fromtimestamp(record.started + record.seconds).strftime("%Y-%m-%d %H:%M")
        table.add_row(record.key, when, time_text(record.seconds), size_text(record.bytes), summary(record))
    return table


def print_steps(root: Path) -> None:
    """The finished steps under a root, and how many folders are none."""
    found = storage_of(root).survey()
    output().print(steps_table(found.records))
    if found.damaged:
        many = len(found.damaged)
        say(f"{many} damaged step{'s' * (many > 1)} left out: `amalgam verify` lists what is wrong")


def print_damage(root: Path) -> int:
    """Everything under a root that is not as it was written, one line each; how many."""
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}: give the --root of a run")
    num_steps, damaged = storage_of(root).verify()
    runs = damaged_runs(root)
    for line in [*damaged, *(f"{path}: this record of a run cannot be read" for path in runs)]:
        say(str(line))
    say(f"{num_steps} steps, {len(damaged)} of them damaged; {len(runs)} damaged records of runs")
    return len(damaged) + len(runs)


def find_step(root: Path, key: str) -> Path:
    """The folder of the one finished step whose name or fingerprint starts with `key`."""
    records = storage_of(root).survey().records
    alike = [r for r in records if r.key.startswith(key) or r.fingerprint.startswith(key)]
    if len(alike) > 1:
        raise ValueError(f"{key!r} matches {len(alike)} steps, such as {alike[0].key}: give more characters")
    if not alike:
        raise unknown_name("finished step", key, [record.key for record in records])
    return storage_of(root).local(alike[0].key)


def find_report(root: Path, key: str | None) -> Path:
    """The folder of the newest report under `root`, or of the one that `key` names."""
    if key:
        return find_step(root, key)
    reports = [record for record in storage_of(root).survey().records if _report_module(record)]
    if not reports:
        raise ValueError(f"no report lies under {root}: run an experiment first, or give its --root")
    return storage_of(root).local(reports[-1].key)


def print_record(folder: Path) -> None:
    """Everything `step.json` says, as JSON, and where it lies."""
    output().print_json(read_record(folder).model_dump_json())
    say(f"files: {folder}")


def print_result(folder: Path) -> None:
    """A report's table and the places of its files; for any other step its metrics and files."""
    record = read_record(folder)
    if module := _report_module(record):
        # Imported here, not above: it imports what pictures need.
        output().print(importlib.import_module(module).terminal_table(folder))
    else:
        for name, value in record.metrics.items():
            say(f"{name} = {value}")
    for fingerprint in record.inputs.get("explanations", []):
        explanation = storage_of(folder.parent).local(f"explanation-{fingerprint}")
        say(f"explanation: {explanation / 'explanation.html'}")
    for file in sorted(record.files, key=_read_last):
        say(f"{NAMES.get(Path(file).suffix, 'file')}: {folder / file}")


def _report_module(record: Record) -> str | None:
    """What prints the report that a step wrote; None if it wrote none."""
    return next((module for stem, module in REPORTS.items() if f"{stem}.csv" in record.files), None)


def _read_last(file: str) -> int:
    """Files for people after files for programs: what is printed last is seen first."""
    suffixes = list(NAMES)
    return suffixes.index(Path(file).suffix) if Path(file).suffix in suffixes else -1
