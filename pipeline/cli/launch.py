"""Run or plan one experiment: build its steps, keep the run's record, show it in MLflow, print the result."""

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from amalgam.pipeline.cli.flags import Experiment, make_step
from amalgam.pipeline.cli.plan import check_space, forecast, plan_table, time_text, totals
from amalgam.pipeline.cli.progress import shown
from amalgam.pipeline.cli.settings import Settings
from amalgam.pipeline.cli.show import print_result
from amalgam.pipeline.console import output, program, say
from amalgam.pipeline.engine.execute import Event, refusals, run
from amalgam.pipeline.engine.place import missing
from amalgam.pipeline.engine.step import Step, ancestors
from amalgam.pipeline.store.storage import storage_of
from amalgam.pipeline.tracking.run_log import logged
from amalgam.pipeline.tracking.run_record import RunRecord
from amalgam.pipeline.tracking.store import Store, store_of


def plan_experiment(name: str, experiment: Experiment, arguments: dict[str, Any], settings: Settings) -> None:
    """Print what `run` would do, and then, as an ExceptionGroup, what is not there that it needs."""
    step = settings.equipped(make_step(experiment, arguments, settings.data_root, settings.root))
    lines = forecast([step], settings.root)
    output().print(plan_table(lines))
    say(f"\n{totals(lines)}")
    _say_derived(step)
    if refused := refusals(missing([step], settings.root), settings.data_root):
        raise ExceptionGroup("the experiment cannot run yet", refused)


def run_experiment(name: str, experiment: Experiment, arguments: dict[str, Any], settings: Settings) -> None:
    """Build what is missing, show the run in MLflow, and print the report."""
    step, store = prepared(name, experiment, arguments, settings)
    record = RunRecord.begun(name, arguments, [step]).model_copy(update={"tags": settings.registered(step)})
    with logged(record, settings.root, store) as log:
        build_and_show(step, settings, log.hear)
    print_result(storage_of(settings.root).local(step.key))
    say(f"open MLflow with: {ui_line(settings)}")


def prepared(name: str, experiment: Experiment, arguments: dict[str, Any], settings: Settings) -> tuple[Step, Store]:
    """The step to build and the store of its run, both checked; prints what is to be done.

    Raises ValueError if the root cannot be written, if its disk is too small or if no store can have that address.
    """
    step = settings.equipped(make_step(experiment, arguments, settings.data_root, settings.root))
    store = store_of(settings.root, settings.tracking_uri)
    store.check()
    storage_of(settings.root).check_writable()
    lines = forecast([step], settings.root)
    check_space(lines, shutil.disk_usage(settings.root).free)
    say(f"{name}: {totals(lines)}")
    _say_derived(step)
    if problem := store.problem():
        say(f"MLflow at {store.address} does not answer ({problem}): the run goes on, `amalgam sync` logs it later")
    return step, store


def _say_derived(step: Step) -> None:
    """What was derived from files and flags, a line each."""
    for name, value in getattr(step.config, "derived", {}).items():
        say(f"{name}: {value}")


def ui_line(settings: Settings) -> str:
    """The command that shows the runs, or the address that does already."""
    root = "" if settings.root == Path("runs") else f" --root {shlex.quote(str(settings.root))}"
    return store_of(settings.root, settings.tracking_uri).address if settings.tracking_uri else f"{program()} ui{root}"


def build_and_show(step: Step, settings: Settings, listen: Callable[[Event], None]) -> None:
    """Build what is missing; a line per step."""
    with shown(ancestors([step]), settings.root) as show:

        def hear(event: Event) -> None:
            show(event)
            listen(event)

        outcome = run([step], settings.root, settings.runner, hear, settings.data_root)
    built, cached = len(outcome.built), len(outcome.cached)
    what = f"built {built} steps, reused {cached}" if built else f"all {cached} steps were built already"
    say(f"{what}, in {time_text(outcome.seconds)}")
