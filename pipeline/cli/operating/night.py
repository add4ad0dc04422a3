"""`amalgam night`: run an experiment with fresh seeds, compare it with a baseline and with earlier nights, and judge.

Exit status: 0 as good as before, 3 a regression, 1 the run failed, 2 the request is invalid. One command
for cron, systemd, Kubernetes or Airflow.
"""

import inspect
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock, Timeout
from typer import Option

from amalgam.pipeline.cli.flags import Experiment
from amalgam.pipeline.cli.launch import build_and_show, prepared
from amalgam.pipeline.cli.operating.compare import made_of
from amalgam.pipeline.cli.settings import Settings
from amalgam.pipeline.cli.show import print_result
from amalgam.pipeline.console import say
from amalgam.pipeline.store.storage import storage_of
from amalgam.pipeline.tracking.nights.record import (
    REGRESSION,
    Night,
    find_run,
    metrics_of,
    nights_folder,
    read_nights,
    records_of,
    set_alias,
)
from amalgam.pipeline.tracking.run_log import logged
from amalgam.pipeline.tracking.run_record import RunRecord, read_runs
from amalgam.tasks.scoring.nights import Finding, Tolerance, changes, judge

CHOICES = ("alpha", "strength")  # first parts of names of what a run chose: neither better nor worse
FIRST_DAY = date(2000, 1, 1)
SEEDS_OF_A_DAY = 1000  # more than any night repeats
night_option = partial(Option, rich_help_panel="Nightly runs")


@dataclass(frozen=True)
class NightSettings(Settings):
    """The settings of a nightly run: what it is compared with, and its resources."""

    name: Annotated[
        str | None, night_option(help="Name of the series of nights.", show_default="the experiment's name")
    ] = None
    baseline: Annotated[str | None, night_option(help="Key or alias of a run that every night is compared with.")] = (
        None
    )
    tolerance: Annotated[
        list[str],
        night_option(metavar="METRIC=FALL", help="Tolerated regression: accuracy=0.5pt, nll=2%."),
    ] = field(default_factory=list)
    last: Annotated[int, night_option(min=1, help="Number of earlier nights to compare with.")] = 10
    seed: Annotated[
        int | None, night_option(min=0, max=2**31 - 1, help="First seed.", show_default="derived from the date")
    ] = None
    date: Annotated[
        datetime | None,
        night_option(
            formats=["%Y-%m-%d"],
            envvar="AMALGAM_NIGHT",
            help="Day that this is the night of.",
            show_default="today",
        ),
    ] = None
    again: Annotated[bool, night_option("--again", help="Run another night on the same day, with other seeds.")] = False
    queue: Annotated[bool, night_option("--queue", help="Wait for a running night of the same name to end.")] = False
    on_regression: Annotated[
        str | None, night_option(help="Shell command run on a regression; AMALGAM_VERDICT is the path of the page.")
    ] = None
    promote_if_better: Annotated[
        str | None, night_option(metavar="ALIAS", help="Alias to set if nothing regressed and a metric improved.")
    ] = None


def run_night(name: str, experiment: Experiment, arguments: dict[str, Any], settings: NightSettings) -> None:
    """Run tonight's experiment and exit with its verdict as the exit status."""
    tolerances = [Tolerance.parse(text) for text in settings.tolerance]
    if "first_seed" not in inspect.signature(experiment).parameters:
        raise ValueError(f"{name} has no parameter first_seed, which a night sets to get new seeds")
    title = _checked_name(name if settings.name is None else settings.name)
    storage_of(settings.root).check_writable()
    lock = nights_folder(settings.root, title).with_suffix(".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=-1 if settings.queue else 0):
            raise SystemExit(_locked(title, name, experiment, arguments, settings, tolerances))
    except Timeout:
        say(f"the last night of {title} is still running: this one is skipped (--queue waits for it)")


def _locked(
    title: str,
    name: str,
    experiment: Experiment,
    arguments: dict[str, Any],
    settings: NightSettings,
    tolerances: Sequence[Tolerance],
) -> int:
    from amalgam.pipeline.cli.operating.evidence import chance  # here, not above: it imports torch

    today = (settings.date or datetime.now()).date()
    if today < FIRST_DAY:
        raise ValueError(f"--date must be {FIRST_DAY} or later, as seeds are counted from there, got {today}")
    before = _nights_until(today, title, settings.root)
    of_today = [night for night in before if night.day == today]
    if of_today and not settings.again and settings.seed is None:
        last = of_today[-1]
        say(f"{title} had its night of {today}: {last.verdict} ({last.folder(settings.root)}); --again makes another")
        return REGRESSION if last.verdict == "regression" else 0
    number = max((night.number for night in of_today), default=-1) + 1  # also where an earlier one cannot be read
    seed = ((today - FIRST_DAY).days * 10 + number) * SEEDS_OF_A_DAY if settings.seed is None else settings.seed
    pinned = None if settings.baseline is None else find_run(settings.root, settings.baseline)
    baseline = metrics_of(pinned, settings.root) if pinned else {}
    given = arguments | {"first_seed": seed}
    step, store = prepared(name, experiment, given, settings)
    run = RunRecord.begun(name, given, [step]).model_copy(update={"tags": {"night": title} | settings.registered(step)})
    with logged(run, settings.root, store) as log:
        build_and_show(step, settings, log.hear)
        metrics = metrics_of(log.run, settings.root)
        deviations = chance(log.run, pinned or _last_run(before, settings.root), settings.root)
        found = findings(metrics, before[-settings.last :], baseline, tolerances, deviations)
        night = Night(
            name=title,
            day=today,
            number=number,
            run=log.run.key,
            baseline=pinned and pinned.key,
            first_seed=seed,
            metrics=metrics,
            made_of=made_of(records_of(log.run, settings.root)),
            verdict="regression" if any(one.is_bad for one in found) else "ok",
            findings=tuple(asdict(one) for one in found),
        )
        _show(night, found, before[-settings.last :], settings)
        night.write(settings.root)  # last: a night that is killed before is none, and made again
        log.tag({"verdict": night.verdict})
    print_result(storage_of(settings.root).local(step.key))
    return _concluded(night, settings)


def _nights_until(today: date, title: str, root: Path) -> list[Night]:
    """The nights of a name up to that day: a clock that was wrong may have dated one in the future."""
    known = read_nights(root, title)
    found = [night for night in known if night.day <= today]
    if later := len(known) - len(found):
        say(f"{later} nights of later days are left out of the comparison")
    return found


def _checked_name(name: str) -> str:
    """The name of a series, which is a folder of its own."""
    if not name or name.startswith(".") or not name.isprintable() or {"/", "\\"} & set(name):
        raise ValueError(f"--name is that of a folder: letters without / or \\ and no dot at its start, got {name!r}")
    return name


def _show(night: Night, found: Sequence[Finding], before: Sequence[Night], settings: NightSettings) -> None:
    """Write the page of the verdict, and say it in a sentence."""
    from amalgam.pipeline.reports.night import night_report, sentence  # here: it imports what pictures need

    nights = (*before, night)
    days = [each.title for each in nights]
    changed = changes(before[-1].made_of, night.made_of) if before else []
    about = {"tolerance": settings.tolerance, "baseline": settings.baseline, "run": night.run}
    title, history = f"{night.name}, {night.day}", [each.metrics for each in nights]
    night.folder(settings.root).mkdir(parents=True, exist_ok=True)
    night_report(title, found, history, days, changed, about).write(night.folder(settings.root))
    storage_of(settings.root).keep(night.folder(settings.root))
    say(sentence(found, days))
    for line in changed[:5]:
        say(f"changed since the night before: {line}")


def findings(
    metrics: Mapping[str, float],
    before: Sequence[Night],
    baseline: Mapping[str, float],
    tolerances: Sequence[Tolerance],
    chance: Mapping[str, float],
) -> list[Finding]:
    """How every metric except choices compares; `chance` has standard deviations of metrics, where they are known.

    Raises ValueError for a tolerance that no metric has.
    """
    for tolerance in tolerances:
        if not any(tolerance.covers(metric) for metric in metrics):
            raise ValueError(
                f"--tolerance {tolerance.metric} matches no metric of this run, which has {', '.join(metrics)}"
            )
    return [
        judge(
            metric,
            value,
            [night.metrics[metric] for night in before if metric in night.metrics],
            baseline.get(metric),
            next((tolerance for tolerance in tolerances if tolerance.covers(metric)), None),
            chance.get(metric, 0.0),
        )
        for metric, value in metrics.items()
        if metric.partition("/")[0] not in CHOICES
    ]


def _last_run(nights: Sequence[Night], root: Path) -> RunRecord | None:
    """The run of the last night, if it is still there."""
    return next((run for run in read_runs(root) if nights and run.key == nights[-1].run), None)


def _concluded(night: Night, settings: NightSettings) -> int:
    page = night.folder(settings.root) / "verdict.html"
    say(f"verdict: {night.verdict}, {page}")
    if night.verdict == "regression":
        if settings.on_regression:
            variables = os.environ | {"AMALGAM_VERDICT": str(page)}
            if status := subprocess.run(settings.on_regression, shell=True, env=variables).returncode:
                say(f"the command of --on-regression failed with exit status {status}: {settings.on_regression}")
        return REGRESSION
    if settings.promote_if_better and any(finding["kind"] == "improvement" for finding in night.findings):
        set_alias(settings.root, settings.promote_if_better, night.run)
        say(f"{settings.promote_if_better} now names {night.run}")
    return 0
