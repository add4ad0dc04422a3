"""Schedules: times as cron has them, every firing run once whoever sees it, missed ones said, nonsense refused."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from amalgam.pipeline.__main__ import main
from amalgam.pipeline.cli.operating.schedule import Scheduler
from amalgam.pipeline.store.storage import Process
from amalgam.pipeline.tracking.nights.schedules import Schedule, claim, firings, read_schedules, write_schedule

pytestmark = pytest.mark.slow
NIGHT = datetime(2026, 11, 25, 2, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


def schedule(**changes) -> Schedule:
    usual = {"name": "nightly", "cron": "0 2 * * *", "timezone": "UTC", "command": ("verify",)}
    return Schedule(**usual | {"added": NIGHT - 24 * HOUR - HOUR / 2} | changes)


@pytest.fixture
def root(tmp_path):
    write_schedule(tmp_path, schedule())
    return tmp_path


def ended(*command) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in command])
    return left.value.code or 0


def outcomes(root: Path) -> list[tuple[str, str, int]]:
    return [(one.id, one.outcome, one.attempts) for one in firings(root, read_schedules(root)[0])]


def look(scheduler: Scheduler, now: datetime) -> None:
    """Let it start what is due, and wait until that has ended."""
    scheduler.look(now)
    for job in scheduler.jobs.values():
        job.process.wait(250)
    scheduler.look(now)


@pytest.mark.parametrize(
    "cron, days",
    [("0 2 * * 1-5", "Mon Tue Wed Thu Fri"), ("0 2 * * 5-7", "Fri Sat Sun"), ("0 2 * * 0,3", "Wed Sun")],
)
def test_days_of_the_week_are_those_of_a_crontab(cron, days):
    monday = datetime(2026, 11, 23, tzinfo=UTC)
    upcoming = schedule(cron=cron).after(monday)
    assert " ".join(f"{next(upcoming):%a}" for _ in days.split()) == days


def test_a_night_is_due_once_when_clocks_are_put_forward_and_back():
    """In Berlin 02:30 does not exist on 29 March 2026, and exists twice on 25 October."""
    berlin = ZoneInfo("Europe/Berlin")
    every_night = schedule(cron="30 2 * * *", timezone="Europe/Berlin", added=datetime(2026, 1, 1, tzinfo=berlin))
    upcoming = every_night.after(datetime(2026, 3, 1, tzinfo=berlin))
    days = [next(upcoming).date() for _ in range(300)]
    assert len(set(days)) == 300


def test_a_firing_is_run_once_whoever_sees_it(root):
    first, second = Scheduler(root), Scheduler(root)
    look(first, NIGHT + HOUR)
    look(second, NIGHT + HOUR)
    look(Scheduler(root), NIGHT + 2 * HOUR)
    assert outcomes(root) == [("nightly-20261125-0200", "done", 1)]
    assert ended("schedule", "run-once", "nightly", "--date", "2026-11-25", "--root", root) == 0
    assert outcomes(root) == [("nightly-20261125-0200", "done", 1)]
    assert "0 steps" in (root / ".schedules" / "nightly" / "nightly-20261125-0200.log").read_text()


def test_one_that_was_killed_is_run_again_under_its_id_and_one_that_failed_is_not(root):
    dead = Process.this().model_copy(update={"started": 0.0})
    [known] = read_schedules(root)
    made = claim(root, known, NIGHT)
    assert made and claim(root, known, NIGHT) is None, "this process runs it"
    path = root / ".schedules" / "nightly" / f"{made.id}.json"
    path.write_text(made.model_copy(update={"driver": dead}).model_dump_json())
    look(Scheduler(root), NIGHT + HOUR)
    assert outcomes(root) == [(made.id, "done", 2)]
    path.write_text(made.model_copy(update={"status": 2}).model_dump_json())
    look(Scheduler(root), NIGHT + HOUR)
    assert outcomes(root) == [(made.id, "failed (2)", 1)]
    assert ended("schedule", "run-once", "nightly", "--date", "2026-11-25", "--root", root) == 0
    assert outcomes(root) == [(made.id, "done", 2)]


def test_a_damaged_record_of_a_firing_is_set_aside_and_named(root, capsys):
    look(Scheduler(root), NIGHT + HOUR)
    [path] = (root / ".schedules" / "nightly").glob("*.json")
    damaged = path.read_bytes()[:-20]
    path.write_bytes(damaged)
    capsys.readouterr()
    assert outcomes(root) == [] and path.stem in capsys.readouterr().out
    assert [kept.read_bytes() for kept in (path.parent / ".damaged").iterdir()] == [damaged]
    look(Scheduler(root), NIGHT + 2 * HOUR)
    assert outcomes(root) == [(path.stem, "done", 1)]


def test_a_late_firing_is_run_with_a_word_and_one_that_is_too_late_is_missed_with_a_sentence(root, capsys):
    scheduler = Scheduler(root)
    look(scheduler, NIGHT + 5 * HOUR)
    said = capsys.readouterr().out
    assert "5.0 h late" in said and "1 earlier ones were missed" in said
    look(scheduler, NIGHT + 24 * HOUR + 13 * HOUR)
    assert "13.0 h ago" in (said := capsys.readouterr().out) and "run-once nightly --date 2026-11-26" in said
    look(scheduler, NIGHT + 24 * HOUR + 14 * HOUR)
    assert not capsys.readouterr().out, "it is said once"
    assert [outcome for _, outcome, _ in outcomes(root)] == ["done", "missed"]
    assert ended("schedule", "run-once", "nightly", "--date", "2026-11-26", "--root", root) == 0
    assert [outcome for _, outcome, _ in outcomes(root)] == ["done", "done"]


def test_a_command_gets_the_day_and_the_id_of_its_firing(tmp_path):
    (tmp_path / "told.py").write_text(
        "import json, os\nfrom amalgam.pipeline.engine.step import Step\n"
        "def tell(config, inputs, work):\n"
        "    return {name: os.environ[name] for name in ('AMALGAM_NIGHT', 'AMALGAM_SUBMISSION_ID')}\n"
        "def told(): return Step('told', tell)\n"
    )
    command = ("run", f"{tmp_path / 'told.py'}:told", "--local")
    write_schedule(tmp_path, schedule(command=command, timezone="America/New_York", cron="0 21 * * *"))
    look(Scheduler(tmp_path), NIGHT + HOUR)
    [record] = [json.loads(path.read_text()) for path in tmp_path.glob("told-*/step.json")]
    assert record["metrics"] == {
        "AMALGAM_NIGHT": "2026-11-24",
        "AMALGAM_SUBMISSION_ID": "nightly-20261124-2100",
    }


@pytest.mark.parametrize(
    "command, named",
    [
        (("x/y", "--cron", "0 2 * * *", "--", "verify"), "'x/y'"),
        (("a", "--cron", "0 2 * *", "--", "verify"), "'0 2 * *'"),
        (("a", "--cron", "61 2 * * *", "--", "verify"), "'61 2 * * *'"),
        (("a", "--cron", "0 2 1 * 1", "--", "verify"), "'0 2 1 * 1'"),
        (("a", "--cron", "0 2 * * *", "--timezone", "Mars", "--", "verify"), "'Mars'"),
        (("a", "--cron", "0 2 * * *", "--", "fuse"), "'fuse'"),
        (("a", "--cron", "0 2 * * *", "--", "night", "mnist_partial_fusoin"), "mnist_partial_fusion"),
        (("a", "--cron", "0 2 * * *", "--", "night", "mnist_partial_fusion", "--seed", "x"), "--seed"),
        (("a", "--cron", "0 2 * * *", "--", "night", "mnist_partial_fusion", "--root", "x"), "--root"),
    ],
)
def test_what_could_never_run_is_refused_when_it_is_added(tmp_path, command, named, capsys):
    assert ended("schedule", "add", "--root", tmp_path, *command) == 2
    assert named in capsys.readouterr().err and not read_schedules(tmp_path)


def test_schedules_are_added_listed_and_removed(tmp_path, capsys):
    add = ("schedule", "add", "--root", tmp_path, "--cron", "0 2 * * *", "nightly", "--")
    assert ended(*add, "night", "mnist_partial_fusion", "--seeds", "1", "--tolerance", "accuracy=0.5pt") == 0
    assert ended(*add, "verify") == 2 and "'nightly'" in capsys.readouterr().err
    assert ended("schedule", "list", "--root", tmp_path) == 0
    assert "night mnist_partial_fusion --seeds 1" in capsys.readouterr().out
    assert ended("schedule", "run-once", "nigthly", "--root", tmp_path) == 2
    assert ended("schedule", "remove", "nightly", "--root", tmp_path) == 0 and not read_schedules(tmp_path)
