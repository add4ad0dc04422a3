"""The flags by which a network that was made of files is shown in MLflow and registered there."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from amalgam.pipeline.cli.settings import TrackingUri, check_registered, model_option
from amalgam.pipeline.console import say
from amalgam.pipeline.store.storage import folder_path
from amalgam.pipeline.tracking.store import store_of

Registry = Annotated[
    Path,
    model_option(callback=folder_path, help="Folder of MLflow's store, where no server is named."),
]
FLAGS: dict[str, tuple[Any, Any]] = {
    "register": (
        Annotated[str | None, model_option(help="Register the network in MLflow by this name.")],
        None,
    ),
    "alias": (
        Annotated[str | None, model_option(help="Alias of what is registered, such as champion.")],
        None,
    ),
    "root": (Registry, Path("runs")),
    "tracking_uri": (TrackingUri, None),
}


def with_flags(
    command: Callable[..., None], checkpoints: Any, flags: Mapping[str, tuple[Any, Any]]
) -> Callable[..., None]:
    """A command of checkpoints with these flags (name -> type and default) and those of registration."""
    takes = inspect.Parameter("checkpoints", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=checkpoints)
    keywords = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)
        for name, (kind, default) in {**flags, **FLAGS}.items()
    ]
    command.__signature__ = inspect.Signature([takes, *keywords])  # type: ignore[attr-defined]
    return command


@dataclass(frozen=True)
class Registration:
    """Under what name a network is registered, and where; no name: not at all."""

    name: str | None
    alias: str | None
    root: Path
    tracking_uri: str | None

    @classmethod
    def taken(cls, given: dict[str, Any]) -> "Registration":
        """What the flags say, which are taken out of `given`. Raises ValueError for what MLflow does not take."""
        found = cls(given.pop("register"), given.pop("alias"), given.pop("root"), given.pop("tracking_uri"))
        check_registered(found.name, found.alias)
        if found.name:
            store = store_of(found.root, found.tracking_uri)
            store.check()
            if problem := store.problem():
                raise ValueError(f"MLflow at {store.address} does not answer ({problem}), so nothing can be registered")
        return found

    def __call__(self, command: str, folder: Path, params: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Show the network of a folder as a run of an experiment called by the command, and register its model."""
        if not self.name:
            return
        # Here, not above: they import torch and mlflow.
        from amalgam.pipeline.tracking.models import register_folder

        store = store_of(self.root, self.tracking_uri)
        shown = {name: str(value) for name, value in params.items() if value is not None}
        version = register_folder(store, command, folder, shown, metrics, self.name, self.alias)
        say(f"registered in MLflow: models:/{self.name}/{version}" + (f" ({self.alias})" if self.alias else ""))
