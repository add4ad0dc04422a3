"""Networks by name, built from a `ModelSpec` and a seed."""

from typing import TYPE_CHECKING

from amalgam.lazy import lazy
from amalgam.tasks.models.spec import ModelSpec

if TYPE_CHECKING:
    from amalgam.tasks.models.builders import build

__all__ = ["ModelSpec", "build"]

__getattr__ = lazy(__name__, {"build": "builders"})
