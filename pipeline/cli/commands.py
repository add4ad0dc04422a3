"""Sub-commands made from experiments, and what the shell sees when something fails."""

import inspect
import sys
import traceback
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeAlias, get_type_hints

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from amalgam.pipeline.cli.errors import sentence
from amalgam.pipeline.cli.flags import Experiment, find_experiment, flags_of
from amalgam.pipeline.cli.settings import Settings
from amalgam.pipeline.console import first_line, say
from amalgam.pipeline.experiments import EXPERIMENTS

Act: TypeAlias = Callable[[str, Experiment, dict[str, Any], Any], None]
"""Takes the experiment's name, the experiment, its arguments and the shared settings."""
USER_ERROR, FAILURE = 2, 1


def experiment_commands(act: Act, help_text: str, shared: type[Settings] = Settings) -> typer.Typer:
    """A command group with one sub-command per experiment, and one for any `path/to/file.py:function`."""

    class Experiments(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            return list(EXPERIMENTS)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            return None if cmd_name.startswith("-") else command_of(cmd_name, act, shared)

    return typer.Typer(
        cls=Experiments,
        help=help_text,
        no_args_is_help=True,
        subcommand_metavar="EXPERIMENT | FILE.py:FUNCTION [FLAGS]",
    )


def command_of(name: str, act: Act, settings: type[Settings] = Settings) -> Any:
    """The command that calls `act` with an experiment, its own arguments and the shared settings."""
    experiment = find_experiment(name)
    shared = _settings_flags(settings)
    # What a command adds to the settings of `run` comes before an experiment's flag of that name, left at its default.
    added = {flag.name for flag in shared} - {field.name for field in fields(Settings)}
    flags = [flag for flag in flags_of(experiment) if flag.name not in added]
    if both := {flag.name for flag in flags} & {flag.name for flag in shared}:
        raise ValueError(f"experiment {name} must rename its arguments {sorted(both)}: every experiment has these")

    def command(**values: Any) -> None:
        arguments = {flag.name: values.pop(flag.name) for flag in flags}
        act(experiment.__name__, experiment, arguments, settings(**values))

    command.__signature__ = inspect.Signature([*flags, *shared])  # type: ignore[attr-defined]
    command.__annotations__ = {flag.name: flag.annotation for flag in (*flags, *shared)}
    command.__doc__ = escape(inspect.getdoc(experiment) or "")  # typer reads it as markup
    app = typer.Typer(add_completion=False)
    app.command(name)(command)
    return typer.main.get_command(app)


def exit_code(error: BaseException) -> int:
    """Print what failed and return the exit code: 2 if the user can mend it, else 1.

    What the user can mend is one sentence each, and so is what a disk or a store refuses to do outside of a step.
    """
    if isinstance(error, ExceptionGroup):
        for inner in error.exceptions:
            where = " ".join(getattr(inner, "__notes__", ["error"]))
            text = sentence(inner) if isinstance(inner, ValueError) else _trace(inner)
            _print(f"{where}: {text}")
        return USER_ERROR if all(isinstance(inner, ValueError) for inner in error.exceptions) else FAILURE
    if isinstance(error, ValueError):
        _print(f"error: {sentence(error)}")
        return USER_ERROR
    _print(f"error: {first_line(error)}" if isinstance(error, OSError) else _trace(error))
    return FAILURE


def fail(error: BaseException) -> None:
    """End the process as `exit_code` says."""
    sys.exit(exit_code(error))


def _settings_flags(settings: type[Settings]) -> list[inspect.Parameter]:
    hints = get_type_hints(settings, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(f.name, keyword, annotation=hints[f.name], default=getattr(settings(), f.name))
        for f in fields(settings)
    ]


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)).rstrip()


def _print(text: str) -> None:
    say(text, Console(stderr=True))
