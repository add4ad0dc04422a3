"""The times that a line of a crontab names, by APScheduler's calendar, which knows time zones and their changes."""

import re
from typing import TypeAlias
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger

Trigger: TypeAlias = CronTrigger
WEEK = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")  # cron counts from Sunday, APScheduler from Monday


def trigger(cron: str, timezone: str) -> Trigger:
    """The times that a crontab line names. Raises ValueError, naming it, if they make no sense."""
    fields = cron.lower().split()
    example = "such as '0 2 * * *', each night at two"
    if len(fields) != 5:
        raise ValueError(f"--cron needs 5 fields (minute, hour, day, month, day of week), {example}, got {cron!r}")
    minute, hour, day, month, week = fields
    if day != "*" and week != "*":
        raise ValueError(f"--cron takes a day of the month or a day of the week, not both, got {cron!r}")
    try:
        return CronTrigger(
            minute=minute, hour=hour, day=day, month=month, day_of_week=_days(week), timezone=ZoneInfo(timezone)
        )
    except (ValueError, IndexError) as error:
        raise ValueError(f"--cron {cron!r} is no line of a crontab ({error}), {example}") from error


def _days(field: str) -> str:
    """A crontab's days of the week by name: `1-5` is Monday to Friday, and a range may pass Sunday."""
    return ",".join(day for part in field.split(",") for day in _named(part))


def _named(part: str) -> list[str]:
    if not (found := re.fullmatch(r"([0-7])(?:-([0-7]))?", part)):
        return [part]
    first, last = int(found[1]), int(found[2] or found[1])
    return [WEEK[day] for day in range(first, last + 1)] or [part]
