"""The flags of `amalgam merge`: where weights come from and go to, and the fields of every merge method."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, Option

from amalgam.pipeline.cli.flags import settings_flags, with_settings
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
    fields = settings_flags(MERGE_METHODS)

    def merge(checkpoints: list[Path], **values: Any) -> None:
        given, register = dict(values), Registration.taken(values)
        settings = {name: value for name in fields if (value := values.pop(name)) is not None}
        method = with_settings(find_merge_method(values.pop("method")), settings)
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
    return with_flags(merge, Checkpoints, OWN_FLAGS | HISTORY_FLAGS | fields)


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
