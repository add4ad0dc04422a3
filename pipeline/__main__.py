"""The command line, `amalgam` or `python -m amalgam`. Nothing heavy is imported before it is needed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from amalgam import __version__
from amalgam.pipeline.cli.clip.pretrain import pretrain
from amalgam.pipeline.cli.clip.sae import app as sae
from amalgam.pipeline.cli.commands import experiment_commands, fail
from amalgam.pipeline.cli.from_files.explain import explain
from amalgam.pipeline.cli.from_files.export import export
from amalgam.pipeline.cli.from_files.fuse import fuse_command
from amalgam.pipeline.cli.from_files.merge import merge_command
from amalgam.pipeline.cli.launch import plan_experiment, run_experiment
from amalgam.pipeline.cli.operating.jobs import status, stop, submit, up
from amalgam.pipeline.cli.operating.night import NightSettings, run_night
from amalgam.pipeline.cli.operating.retention import collect
from amalgam.pipeline.cli.operating.schedule import app as schedule
from amalgam.pipeline.cli.settings import Root, TrackingUri
from amalgam.pipeline.console import say

RUNNING = ("plan", "run", "up", "submit", "status", "stop", "night", "schedule", "gc", "compare")
RESULTS = ("show", "report", "fuse", "export", "merge", "pretrain", "sae", "explain", "ui", "sync", "verify")


class Ordered(TyperGroup):
    """Lists the commands in the order of use."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names."""
        return [*RUNNING, *RESULTS]


app = typer.Typer(
    cls=Ordered,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"amalgam {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Fuse trained networks into one of any size, and report its accuracy and cost."""


app.add_typer(experiment_commands(run_experiment, "Run an experiment; finished steps are reused."), name="run")
app.add_typer(experiment_commands(plan_experiment, "Show what `run` with the same flags would do."), name="plan")

app.add_typer(
    experiment_commands(
        run_night, "Run with fresh seeds and compare with a baseline and earlier nights.", NightSettings
    ),
    name="night",
)

# What follows are the experiment's own flags: they are checked as those of `run` are.
app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": True})(submit)
app.command()(up)
app.command()(status)
app.command()(stop)
app.add_typer(schedule, name="schedule")
app.command("gc")(collect)
app.command("fuse")(fuse_command())
app.command()(export)
app.command("merge")(merge_command())
app.command()(pretrain)
app.add_typer(sae, name="sae")
app.command()(explain)


@app.command()
def show(
    step: Annotated[
        str | None, typer.Argument(help="First characters of a step's key or fingerprint.", show_default="list all")
    ] = None,
    root: Root = Path("runs"),
) -> None:
    """List the finished steps, or print everything about one of them."""
    from amalgam.pipeline.cli.show import find_step, print_record, print_steps

    if step:
        print_record(find_step(root, step))
    else:
        print_steps(root)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(help="Key of a run (or its first characters), or an alias.")],
    second: Annotated[str, typer.Argument(help="The same for the run to compare it with.")],
    root: Root = Path("runs"),
) -> None:
    """Compare the metrics of two runs, and the code, data and packages they used."""
    from amalgam.pipeline.cli.operating.compare import compare_runs

    compare_runs(first, second, root)


@app.command()
def verify(root: Root = Path("runs")) -> None:
    """Compare every file under the root with its recorded digest, and list what differs."""
    from amalgam.pipeline.cli.show import print_damage

    raise SystemExit(1 if print_damage(root) else 0)


@app.command()
def report(
    step: Annotated[
        str | None, typer.Argument(help="First characters of a report step's key.", show_default="the newest")
    ] = None,
    root: Root = Path("runs"),
) -> None:
    """Print the table of a report again, with the paths of its figure, page and files."""
    from amalgam.pipeline.cli.show import find_report, print_result

    print_result(find_report(root, step))


@app.command()
def ui(
    root: Root = Path("runs"), port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000
) -> None:
    """Serve MLflow's UI on the runs under the root; Ctrl-C stops it."""
    from amalgam.pipeline.tracking.serve import require_free, require_store, serve_ui

    require_store(root)
    require_free(port)
    say(f"MLflow at http://127.0.0.1:{port} (Ctrl-C stops it)")
    raise SystemExit(serve_ui(root, port))


@app.command()
def sync(root: Root = Path("runs"), tracking_uri: TrackingUri = None) -> None:
    """Log every run that MLflow lacks, such as those made while its server was down."""
    from amalgam.pipeline.tracking.run_record import damaged_runs
    from amalgam.pipeline.tracking.store import store_of
    from amalgam.pipeline.tracking.sync import sync as sync_runs  # here, not above: it imports mlflow

    store = store_of(root, tracking_uri)
    store.check()
    damaged = damaged_runs(root)
    for path in damaged:
        say(f"{path} cannot be read and is skipped: remove it; its steps keep their own records")
    tracked = sync_runs(root, store)
    for one in tracked:
        say(one.line)
    if damaged or any(one.problem for one in tracked):
        raise SystemExit(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a user's error is one sentence and exit code 2."""
    try:
        app(arguments)
    except Exception as error:
        fail(error)


if __name__ == "__main__":
    main()
