"""Schedules under a root, and their firings: each has one id, and whoever claims it first runs it.

A firing is named by its schedule and the time it was due, never by when it ran: a second scheduler, a restart or a
retry finds the record of the first, and a cluster that is given the id twice takes the job once.
"""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, field_validator

from amalgam.pipeline.console import say
from amalgam.pipeline.store.artifact import sealed, set_aside, unsealed
from amalgam.pipeline.store.storage import Process, storage_of
from amalgam.pipeline.tracking.nights.crontab import Trigger, trigger
from amalgam.pipeline.tracking.nights.record import REGRESSION
from amalgam.tasks.user_names import unknown_name

FOLDER = ".schedules"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]*")
WINDOWS = (timedelta(hours=2), timedelta(days=2), timedelta(days=32), timedelta(days=1500))
"""How far back a due time is looked for, the shortest first: a schedule of every minute has many."""
DONE = {0: "done", REGRESSION: "regression"}
"""Exit statuses of a command that did its work."""
SIGNALS = 128  # above are the exit statuses of commands that a signal ended
MOST_ATTEMPTS = 3  # of a firing that is killed each time, as by a lack of memory


class Schedule(BaseModel):
    """A command and the times at which it runs."""

    model_config = ConfigDict(frozen=True)
    name: str
    cron: str
    """Minute, hour, day of month, month, day of week."""
    timezone: str
    command: tuple[str, ...]
    """Arguments of `amalgam`."""
    added: AwareDatetime
    grace_hours: Annotated[PositiveFloat, Field(allow_inf_nan=False)] = 12.0
    """How late a command that was missed is still run."""

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError(f"a schedule's name is letters, digits, '_' and '.', got {name!r}")
        return name

    @field_validator("timezone")
    @classmethod
    def _zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"--timezone must be a name such as UTC or Europe/Berlin, got {name!r}") from error
        return name

    @field_validator("cron")
    @classmethod
    def _times(cls, text: str) -> str:
        trigger(text, "UTC")
        return text

    @cached_property
    def _trigger(self) -> Trigger:
        return trigger(self.cron, self.timezone)

    @property
    def zone(self) -> ZoneInfo:
        """Its time zone."""
        return ZoneInfo(self.timezone)

    def after(self, moment: datetime) -> Iterator[datetime]:
        """The times at which it is due, from `moment` on; an hour that a clock shows twice counts once."""
        # In UTC: local times that are added to get stuck in the hour that a clock shows twice.
        while (due := self._trigger.get_next_fire_time(None, moment.astimezone(UTC))) is not None:
            if not due.fold:
                yield due
            moment = due.astimezone(UTC) + timedelta(microseconds=1)

    def last_due(self, now: datetime) -> datetime | None:
        """The newest time, not after `now`, at which it was due; None if there was none since it was added."""
        for window in WINDOWS:
            begin = max(now - window, self.added)
            if past := list(_until(self.after(begin), now)):
                return past[-1]
        return None

    def due_on(self, day: date, now: datetime) -> datetime:
        """When it is due on that day: the last time not after `now`, else the first. Raises ValueError if never."""
        midnight = datetime.combine(day, datetime.min.time(), self.zone)
        times = list(_until(self.after(midnight), midnight + timedelta(days=1, microseconds=-1)))
        if not times:
            following = next(self.after(midnight), None)
            raise ValueError(f"{self.name} ({self.cron}) is not due on {day}; the next time is {following}")
        return max((time for time in times if time <= now), default=times[0])

    def missed(self, since: datetime, until: datetime) -> int:
        """How often it was due after `since` and before `until`."""
        return sum(1 for _ in _until(self.after(since + timedelta(microseconds=1)), until - timedelta(microseconds=1)))


class Firing(BaseModel):
    """One time at which a schedule was due, and what became of it."""

    model_config = ConfigDict(frozen=True)
    id: str
    due: AwareDatetime
    driver: Process | None = None
    """What runs it; None for one that was missed."""
    attempts: int = 1
    seconds: NonNegativeFloat | None = None
    """How long it took; None while it runs."""
    status: int | None = None
    """Exit status of the command."""

    @property
    def is_done(self) -> bool:
        """Whether its command did its work."""
        return self.status in DONE

    @property
    def is_running(self) -> bool:
        """Whether something runs it, as far as this machine can know."""
        return self.status is None and self.driver is not None and not self.driver.is_dead

    @property
    def outcome(self) -> str:
        """In a few words."""
        if self.driver is None:
            return "missed"
        if self.status is None and self.is_running:
            return "running"
        if self.status is None or self.status < 0 or self.status > SIGNALS:
            return "killed"
        return DONE.get(self.status, f"failed ({self.status})")


def _until(times: Iterator[datetime], end: datetime) -> Iterator[datetime]:
    for time in times:
        if time > end:
            return
        yield time


def read_schedules(root: Path) -> list[Schedule]:
    """The schedules under a root that can be read, by name."""
    found = []
    storage_of(root).refresh(FOLDER)
    for path in sorted((root / FOLDER).glob("*.json")):
        try:
            found.append(Schedule.model_validate(unsealed(path.read_bytes())))
        except (ValueError, OSError):
            say(f"{path} cannot be read: this schedule is left out; remove it and add it anew")
    return found


def find_schedule(root: Path, name: str) -> Schedule:
    """The schedule of that name. Raises ValueError, with near names, if there is none."""
    known = {schedule.name: schedule for schedule in read_schedules(root)}
    if name not in known:
        raise unknown_name("schedule", name, known)
    return known[name]


def write_schedule(root: Path, schedule: Schedule) -> None:
    """Keep a schedule. Raises ValueError if there is one of its name."""
    path = schedule_path(root, schedule.name)
    with _alone(root):
        if any(known.name == schedule.name for known in read_schedules(root)) or path.exists():
            raise ValueError(f"there is a schedule {schedule.name!r} already: remove it first, or choose another name")
        storage_of(root).write(path, sealed(schedule))


def schedule_path(root: Path, name: str) -> Path:
    """Where a schedule lies; its firings and their logs lie in the folder of its name."""
    return root / FOLDER / f"{name}.json"


def log_path(root: Path, schedule: Schedule, due: datetime) -> Path:
    """Where what a firing printed lies."""
    return schedule_path(root, schedule.name).with_suffix("") / f"{firing_id(schedule, due)}.log"


def firing_id(schedule: Schedule, due: datetime) -> str:
    """The one id of a firing, the same whoever runs it and when."""
    return f"{schedule.name}-{due.astimezone(schedule.zone):%Y%m%d-%H%M}"


def firings(root: Path, schedule: Schedule) -> list[Firing]:
    """The firings of a schedule that are known, oldest first; a damaged record is set aside and counts as not run."""
    found = []
    for path in schedule_path(root, schedule.name).with_suffix("").glob("*.json"):
        try:
            found.append(Firing.model_validate(unsealed(path.read_bytes())))
        except ValueError:
            say(f"{path.stem}: its record is damaged, so it counts as not run; set aside in {set_aside(path)}")
            storage_of(root).forget(path)
    return sorted(found, key=lambda firing: firing.due)


def firing(root: Path, schedule: Schedule, due: datetime) -> Firing | None:
    """The firing of that time, if it is known."""
    wanted = firing_id(schedule, due)
    return next((one for one in firings(root, schedule) if one.id == wanted), None)


def claim(root: Path, schedule: Schedule, due: datetime, again: bool = False) -> Firing | None:
    """The firing, now this process's to run; None if somebody runs it or has run it.

    One that was killed is run again under the same id, not often; so is one that failed or was missed, if `again`.
    """
    with _alone(root):
        storage_of(root).refresh(FOLDER)
        known = firing(root, schedule, due)
        was_killed = known is not None and known.outcome == "killed" and known.attempts < MOST_ATTEMPTS
        if known and (known.is_done or known.is_running or not (again or was_killed)):
            return None
        made = Firing(
            id=firing_id(schedule, due), due=due, driver=Process.this(), attempts=known.attempts + 1 if known else 1
        )
        write_firing(root, schedule, made)
        return made


def write_firing(root: Path, schedule: Schedule, one: Firing) -> None:
    """Keep what is known of a firing."""
    storage_of(root).write(log_path(root, schedule, one.due).with_suffix(".json"), sealed(one))


def _alone(root: Path) -> AbstractContextManager[None]:
    return storage_of(root).alone("schedules")
