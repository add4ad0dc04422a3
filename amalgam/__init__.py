"""Fuse many trained networks into one of any size, and fine-tune CLIP robustly.

The names below are what a program imports; each is loaded when it is first used, so that importing `amalgam` costs
nothing and the command line starts without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amalgam.tasks.fusion import Assignment, Identity, Method, PartialOT
    from amalgam.tasks.fusion.fusing import fuse

__all__ = ["Assignment", "Identity", "Method", "PartialOT", "fuse"]

HOMES = {
    "amalgam.tasks.fusion": ("Assignment", "Identity", "Method", "PartialOT", "fuse"),
}
"""The module that each public name comes from."""


def __getattr__(name: str) -> Any:
    for home, names in HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
