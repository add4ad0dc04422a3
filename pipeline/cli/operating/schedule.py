"""`amalgam schedule`: commands at set times, each run started once, whichever scheduler starts it.

Schedules and what became of each firing lie under the root, so that any number of schedulers may serve one root, one
that was restarted goes on, and `run-once` from cron, systemd or Kubernetes counts as the same firing.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from typer import Argument, Option
from typer.core import TyperGroup

from amalgam.pipeline.cli.progress import IN_A_JOB
from amalgam.pipeline.cli.settings import Root
from amalgam.pipeline.console import output, say
from amalgam.pipeline.store.storage import Process, storage_of
from amalgam.pipeline.tracking.nights.schedules import (
    Firing,
    Schedule,
    claim,
    find_schedule,
    firing,
    firing_id,
    firings,
    log_path,
    read_schedules,
    schedule_path,
    write_firing,
    write_schedule,
)
from amalgam.pipeline.tracking.run_log import ended_by_signals
from amalgam.tasks.user_names import unknown_name

SCHEDULED = ("night", "run", "submit", "gc", "sync", "verify")
LATE = timedelta(minutes=5)  # by which a firing may be late without a message
USAGE: Any = typer.BadParameter.__mro__[1]  # UsageError of the click that this typer brings along
POLL, POLL_OF_STORE = 1.0, 15.0  # seconds between two looks at a folder, or at an object store
PATIENCE = 60  # seconds a command may take to end when the scheduler does

app = typer.Typer(help="Run commands at set times, each run started once.", no_args_is_help=True)
Name = Annotated[str, Argument(help="Name of the schedule.")]


@app.command()
def add(
    context: typer.Context,
    name: Name,
    command: Annotated[list[str], Argument(help="After --, the command: night EXPERIMENT ... (without --root).")],
    cron: Annotated[str, Option(help="Minute, hour, day of month, month, day of week, as in a crontab.")],
    timezone: Annotated[str, Option(help="Time zone of these times.")] = "UTC",
    grace: Annotated[float, Option(min=0.01, help="Hours by which a missed run may be late and is still run.")] = 12,
    root: Root = Path("runs"),
) -> None:
    """Add a schedule; `serve` or `run-once` runs it."""
    if command[0] not in SCHEDULED:
        raise ValueError(f"a schedule runs one of {', '.join(SCHEDULED)}, got {command[0]!r}")
    if any(argument.partition("=")[0] == "--root" for argument in command):
        raise ValueError("give --root to `amalgam schedule add` itself, before --: the command gets the same")
    check_command(command, context.find_root().command)
    schedule = Schedule(
        name=name, cron=cron, timezone=timezone, command=tuple(command), added=datetime.now(UTC), grace_hours=grace
    )
    if (first := next(schedule.after(schedule.added), None)) is None:
        raise ValueError(f"--cron {cron!r} names no time that will ever come")
    write_schedule(root, schedule)
    say(f"{name} runs next at {first}; `amalgam schedule serve` runs it")


@app.command("list")
def list_schedules(root: Root = Path("runs")) -> None:
    """List the schedules, when each runs next, and the outcome of the last run."""
    table = Table("schedule", "cron", "next", "last", "command", box=None, pad_edge=False)
    for schedule in read_schedules(root):
        past, upcoming = firings(root, schedule), next(schedule.after(datetime.now(UTC)), None)
        last = f"{past[-1].due:%Y-%m-%d %H:%M} {past[-1].outcome}" if past else ""
        when = f"{upcoming:%Y-%m-%d %H:%M %Z}" if upcoming else "never"
        table.add_row(schedule.name, schedule.cron, when, last, " ".join(schedule.command))
    output().print(table)


@app.command()
def remove(name: Name, root: Root = Path("runs")) -> None:
    """Remove a schedule; what it ran stays."""
    find_schedule(root, name)
    storage_of(root).forget(schedule_path(root, name))
    say(f"{name} removed; the records of its runs stay in {schedule_path(root, name).with_suffix('')}")


@app.command()
def run_once(
    name: Name,
    date: Annotated[
        datetime | None,
        Option(formats=["%Y-%m-%d"], help="Day whose run this is.", show_default="today, in its time zone"),
    ] = None,
    root: Root = Path("runs"),
) -> None:
    """Run a schedule's command for a day, unless that is done; exit with its exit status."""
    schedule, now = find_schedule(root, name), datetime.now(UTC)
    day = date.date() if date else now.astimezone(schedule.zone).date()
    due = schedule.due_on(day, now)
    made = claim(root, schedule, due, again=True)
    if made is None:
        known = firing(root, schedule, due)
        assert known, "what cannot be claimed is known"
        say(f"{known.id}: {known.outcome} already")
        raise SystemExit(known.status or 0)
    with ended_by_signals():
        job = _Job(root, schedule, made, is_shown=True)
        try:
            job.process.wait()
        finally:
            status = job.end()
    raise SystemExit(status)


@app.command()
def serve(root: Root = Path("runs")) -> None:
    """Run every schedule when it is due, until interrupted."""
    scheduler = Scheduler(root)
    say(f"{len(read_schedules(root))} schedules under {root}; Ctrl-C ends")
    with ended_by_signals():
        try:
            while True:
                scheduler.look(datetime.now(UTC))
                time.sleep(POLL_OF_STORE if storage_of(root).address else POLL)
        except KeyboardInterrupt:
            say("interrupted: commands that run are ended, and run again by the next scheduler")
        finally:
            scheduler.end()


def check_command(arguments: Sequence[str], program: Any) -> None:
    """Raise ValueError unless the program would take these arguments; nothing is run."""
    command, rest = program, list(arguments)
    while isinstance(command, TyperGroup):
        name = rest.pop(0) if rest else ""
        known = command.list_commands(typer.Context(command))
        found = command.get_command(typer.Context(command), name) if name else None
        if found is None:
            raise unknown_name("command", name, known)
        command = found
    try:
        command.make_context(command.name or "amalgam", rest)
    except USAGE as error:
        raise ValueError(f"amalgam {' '.join(arguments)}: {error.format_message()}") from error


class _Job:
    """The process of a firing."""

    def __init__(self, root: Path, schedule: Schedule, made: Firing, is_shown: bool = False) -> None:
        self.root, self.schedule, self.made, self._begun = root, schedule, made, time.monotonic()
        environment = os.environ | {
            "AMALGAM_NIGHT": f"{made.due.astimezone(schedule.zone):%Y-%m-%d}",
            IN_A_JOB: made.id,
        }
        command = [sys.executable, "-m", "amalgam", *schedule.command, "--root", storage_of(root).address or str(root)]
        self.log = log_path(root, schedule, made.due)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            shown = None if is_shown else log
            self.process = subprocess.Popen(command, env=environment, stdout=shown, stderr=shown)
        # From now on it is the process itself that is alive or dead: it may outlive a scheduler that is killed.
        self.made = made.model_copy(update={"driver": Process.of(self.process.pid)})
        write_firing(root, schedule, self.made)

    def end(self) -> int:
        """Keep how it ended, and end it if it still runs; its exit status."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        status = self.process.returncode
        seconds = time.monotonic() - self._begun
        self.made = self.made.model_copy(update={"status": status, "seconds": seconds})
        write_firing(self.root, self.schedule, self.made)
        return status


@dataclass
class Scheduler:
    """Starts what is due, a process for each schedule at most."""

    root: Path
    jobs: dict[str, _Job] = field(default_factory=dict)

    def look(self, now: datetime) -> None:
        """Keep how commands ended, and start those that are due."""
        for name in [name for name, job in self.jobs.items() if job.process.poll() is not None]:
            job = self.jobs.pop(name)
            job.end()
            say(f"{job.made.id}: {job.made.outcome}, see {job.log}")
        for schedule in read_schedules(self.root):
            if schedule.name not in self.jobs and (due := schedule.last_due(now)):
                self._fire(schedule, due, now)

    def _fire(self, schedule: Schedule, due: datetime, now: datetime) -> None:
        late = now - due
        past = firings(self.root, schedule)
        if late > timedelta(hours=schedule.grace_hours):
            if not any(one.due == due for one in past):
                self._miss(schedule, due, late)
            return
        if (made := claim(self.root, schedule, due)) is None:
            return
        since = past[-1].due if past else schedule.added
        skipped = schedule.missed(since, due)
        lateness = f", {_hours(late)} late" if late > LATE else ""
        say(f"{made.id}: started{lateness}" + (f"; {skipped} earlier ones were missed" if skipped else ""))
        self.jobs[schedule.name] = _Job(self.root, schedule, made)

    def _miss(self, schedule: Schedule, due: datetime, late: timedelta) -> None:
        missed = Firing(id=firing_id(schedule, due), due=due)
        write_firing(self.root, schedule, missed)
        again = f"amalgam schedule run-once {schedule.name} --date {due.astimezone(schedule.zone):%Y-%m-%d}"
        say(f"{missed.id}: missed, {_hours(late)} ago, more than --grace {schedule.grace_hours:g}; `{again}` runs it")

    def end(self) -> None:
        """End what runs; it is run again, under the same id, by the next scheduler."""
        for job in self.jobs.values():
            job.end()


def _hours(time: timedelta) -> str:
    return f"{time.total_seconds() / 3600:.1f} h"
