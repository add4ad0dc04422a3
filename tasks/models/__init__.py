"""Networks by name, built from a `ModelSpec` and a seed."""

from typing import TYPE_CHECKING, Any

from amalgam.tasks.models.spec import ModelSpec

if TYPE_CHECKING:
    from amalgam.tasks.models.builders import build

__all__ = ["ModelSpec", "build"]


def __getattr__(name: str) -> Any:
    # Building needs torch, specs do not: plans and help pages import only the latter.
    if name != "build":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from amalgam.tasks.models.builders import build

    return build
