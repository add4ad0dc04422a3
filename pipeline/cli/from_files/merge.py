"""The flags of `amalgam merge`: where weights come from and go to, and the fields of every merge method."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from rich.markup import escape
from typer import Argument, Option

from amalgam.pipeline.cli.errors import flag, require_flags
from amalgam.pipeline.cli.from_files.registering import Registration, with_flags
from amalgam.pipeline.console import say
from amalgam.tasks.merging import MERGE_METHODS, MergeMethod, find_merge_method
from amalgam.tasks.merging.weights.providers import MWA

Checkpoints = Annotated[
    list[Path],
    Argument(help="The base, then the members: .safetensors, .pt state dicts, or Hugging Face model folders."),
]
OWN_FLAGS: dict[str, tuple[Any, Any]] = {
    "method": (Annotated[str, Option(help="Name of the merge method.")], ...),
    "out": (Annotated[Path, Option(help="New folder for the weights and merge.json.")], ...),
    "statistics": (Annotated[Path | None, Option(help="Folder with the members' statistics (Fisher, Grams).")], None),
    "conflicts": (
        Annotated[bool, Option("--conflicts", help="Report where members disagree, tensor by tensor: conflicts.csv.")],
        False,
    ),
    "base": (Annotated[bool, Option(help="Whether the first file is the base.")], True),
    "space": (
        Annotated[Literal["product", "factors"] | None, Option(help="Merge LoRA adapters as products or as factors.")],
        None,
    ),
    "adapter_rank": (Annotated[int | None, Option(min=1, help="Rank of a merged LoRA adapter.")], None),
}
HISTORY_FLAGS: dict[str, tuple[Any, Any]] = {
    "history": (Annotated[str | None, Option(help="CSV or MLflow run whose metric weights checkpoints (MWA).")], None),
    "metric": (Annotated[str | None, Option(help="Its metric, such as validation/nll.")], None),
    "by": (
        Annotated[
            Literal["loss", "step", "metric"], Option(help="Prefer checkpoints by low loss, late step or high metric.")
        ],
        "loss",
    ),
    "penalty": (Annotated[float, Option(min=0, help="How strongly better checkpoints are preferred.")], 1.0),
    "steps": (
        Annotated[
            str | None, Option(help="Training step of each checkpoint, such as 100,200.", show_default="the last ones")
        ],
        None,
    ),
}


def merge_command() -> Callable[..., None]:
    """The function behind `amalgam merge`, with one flag for every field that any method has."""
    fields = settings_of_all()

    def merge(checkpoints: list[Path], **values: Any) -> None:
        given, register = dict(values), Registration.taken(values)
        settings = {name: value for name in fields if (value := values.pop(name)) is not None}
        method = method_with(values.pop("method"), settings)
        weighting = {name: values.pop(name) for name in HISTORY_FLAGS}
        if weighting["history"] is not None:
            weighting |= {"tracking_uri": register.tracking_uri}
            method = weighted(method, len(checkpoints) - values["base"], **weighting)
        from amalgam.pipeline.cli.from_files.merge_files import (  # here, not above: it imports torch
            MergeRequest,
            merge_files,
            require_loadable,
        )

        request = MergeRequest(tuple(checkpoints), method, has_base=values.pop("base"), **values)
        if register.name:
            require_loadable(request)
        for line in merge_files(request):
            say(line)
        say(f"merged network: {request.out}")
        register("merge", request.out, given, {})

    merge.__doc__ = "Merge networks fine-tuned from one base into one network.\n\nMethods: " + ", ".join(
        kind.__name__ for kind in MERGE_METHODS
    )
    of_methods = {name: (_kind(field, kinds), None) for name, (field, kinds) in fields.items()}
    return with_flags(merge, Checkpoints, OWN_FLAGS | HISTORY_FLAGS | of_methods)


def settings_of_all() -> dict[str, tuple[FieldInfo, list[str]]]:
    """Every field of any method, and the names of the methods that have it."""
    found: dict[str, tuple[FieldInfo, list[str]]] = {}
    for kind in MERGE_METHODS:
        for name, field in kind.model_fields.items():
            found.setdefault(name, (field, []))[1].append(kind.__name__)
    return found


def method_with(name: str, settings: dict[str, Any]) -> MergeMethod:
    """The method of that name with these settings. Raises ValueError for one that it does not have."""
    kind = find_merge_method(name)
    if odd := sorted(settings.keys() - kind.model_fields.keys()):
        flags = ", ".join(map(flag, kind.model_fields)) or "none"
        raise ValueError(f"{kind.__name__} has no setting {flag(odd[0])}: it takes {flags}")
    require_flags(kind, settings)
    return kind(**{key: _parsed(kind.model_fields[key], value) for key, value in settings.items()})


def weighted(
    method: MergeMethod,
    count: int,
    *,
    history: str,
    metric: str | None,
    by: Literal["loss", "step", "metric"],
    penalty: float,
    steps: str | None,
    tracking_uri: str | None,
) -> MergeMethod:
    """The method with weights of `count` checkpoints by a metric's history (MWA).

    Raises ValueError if the method takes no weights, or as `read_history` and `checkpoint_weights` do.
    """
    from amalgam.pipeline.tracking.history import checkpoint_weights, read_history

    if "weights" not in type(method).model_fields:
        raise ValueError(f"{type(method).__name__} takes no weights: --history is for linear methods such as Average")
    if metric is None:
        raise ValueError("give --metric: which metric of the history weights the checkpoints")
    try:
        places = [int(part) for part in (steps or "").split(",") if part.strip()]
    except ValueError:
        raise ValueError(f"steps are whole numbers with commas, such as 100,200, got {steps!r}") from None
    found = read_history(history, metric, tracking_uri)
    return type(method)(
        **{**dict(method), "weights": checkpoint_weights(found, MWA(by=by, penalty=penalty), count, places)}
    )


def _kind(field: FieldInfo, methods: list[str]) -> Any:
    """The flag of a field: text where commas separate several values, else its own type."""
    text = f"{inspect.cleandoc(field.description or '')} ({', '.join(methods)})"
    option = Option(help=escape(text), show_default=False)  # typer reads it as markup
    if _is_tuple(field):
        return Annotated[str | None, option]
    return Annotated[field.annotation | None, option] if field.annotation else Annotated[str | None, option]


def _parsed(field: FieldInfo, value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if _is_tuple(field) else value


def _is_tuple(field: FieldInfo) -> bool:
    return any(get_origin(kind) is tuple for kind in (field.annotation, *get_args(field.annotation)))
