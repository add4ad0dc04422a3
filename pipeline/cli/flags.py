"""An experiment is a Python function that returns a step: find it by name, and turn its signature into flags."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from rich.markup import escape

from amalgam.pipeline.cli.errors import flag, require_flags
from amalgam.pipeline.engine.data_digests import with_data
from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.experiments import EXPERIMENTS
from amalgam.pipeline.experiments.flags import flat
from amalgam.tasks.user_names import load_name, unknown_name

Experiment: TypeAlias = Callable[..., Step]
M = TypeVar("M", bound=BaseModel)
DATA_ROOT, ROOT = "data_root", "root"  # parameters that are no flags of an experiment: every command has them


def find_experiment(name: str) -> Experiment:
    """The experiment of that name, or the function that `path/to/file.py:function` names."""
    if name in EXPERIMENTS:
        return EXPERIMENTS[name]
    if ":" not in name:
        raise unknown_name("experiment", name, EXPERIMENTS)
    experiment = load_name(name, "function")
    if not callable(experiment):
        raise ValueError(f"{name} is not a function")
    return flat(experiment)


def flags_of(experiment: Experiment) -> list[inspect.Parameter]:
    """The experiment's parameters as typer options: `Annotated[float, "help"]` documents one, tuples take commas.

    Fields of a group are parameters of the experiment: see `pipeline.experiments.flags`.
    """
    hints = get_type_hints(experiment, include_extras=True)
    parameters = inspect.signature(experiment).parameters.values()
    return [
        _flag(parameter, hints.get(parameter.name))
        for parameter in parameters
        if parameter.name not in (DATA_ROOT, ROOT)
    ]


def make_step(
    experiment: Experiment, arguments: dict[str, Any], data_root: Path | None = None, root: Path | None = None
) -> Step:
    """The experiment's step for these arguments, its data sets as they lie there now.

    An experiment that has a parameter `data_root` gets the folder of data sets, one that has `root` that of results.
    """
    places = {DATA_ROOT: data_root, ROOT: root}
    wanted = {name: place for name, place in places.items() if name in inspect.signature(experiment).parameters}
    step = experiment(**arguments, **wanted)
    if not isinstance(step, Step):
        raise ValueError(f"an experiment returns a Step, but {experiment.__qualname__} gave {type(step).__name__}")
    return with_data(step, data_root)


def _flag(parameter: inspect.Parameter, hint: Any) -> inspect.Parameter:
    if hint is None:
        raise ValueError(f"parameter {parameter.name!r} of the experiment needs a type, such as {parameter.name}: int")
    kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    help_text = next((note for note in notes if isinstance(note, str)), "")
    default = ... if parameter.default is inspect.Parameter.empty else parameter.default
    help_text = escape(help_text)  # typer reads it as markup
    option = typer.Option(help=help_text)
    for several in (one for one in (kind, *get_args(kind)) if get_origin(one) is tuple):  # the kind, or it or None
        item = getattr(get_args(several)[0], "__name__", "text").upper()
        option = typer.Option(help=help_text, parser=_commas(several), metavar=f"{item},...")
        kind, default = Any, default if default in (..., None) else ",".join(map(str, default))
    return inspect.Parameter(
        parameter.name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[kind, option], default=default
    )


def _commas(kind: Any) -> Callable[[str], Any]:
    adapter = TypeAdapter(kind)
    return lambda text: adapter.validate_python([part.strip() for part in text.split(",") if part.strip()])


def settings_flags(kinds: Sequence[type[BaseModel]], hidden: Sequence[str] = ()) -> dict[str, tuple[Any, None]]:
    """A flag for every field of any of these values, without a default; its help names the values that have it."""
    fields: dict[str, tuple[FieldInfo, list[str]]] = {}
    for kind in kinds:
        for name, field in kind.model_fields.items():
            fields.setdefault(name, (field, []))[1].append(kind.__name__)
    return {name: (_flag_of(field, users), None) for name, (field, users) in fields.items() if name not in hidden}


def with_settings(kind: type[M], settings: Mapping[str, Any]) -> M:
    """The value with settings given as flags. Raises ValueError for one that it does not have, or lacks."""
    if odd := sorted(settings.keys() - kind.model_fields.keys()):
        flags = ", ".join(map(flag, kind.model_fields)) or "none"
        raise ValueError(f"{kind.__name__} has no setting {flag(odd[0])}: it takes {flags}")
    require_flags(kind, settings)
    return kind(**{key: _parsed(kind.model_fields[key], value) for key, value in settings.items()})


def _flag_of(field: FieldInfo, users: Sequence[str]) -> Any:
    """The flag of a field: text where commas separate several values, else its own type."""
    text = f"{inspect.cleandoc(field.description or '')} ({', '.join(users)})"
    option = typer.Option(help=escape(text), show_default=False)  # typer reads it as markup
    if _is_tuple(field):
        return Annotated[str | None, option]
    return Annotated[field.annotation | None, option] if field.annotation else Annotated[str | None, option]


def _parsed(field: FieldInfo, value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if _is_tuple(field) else value


def _is_tuple(field: FieldInfo) -> bool:
    return any(get_origin(kind) is tuple for kind in (field.annotation, *get_args(field.annotation)))
