"""Code in a user's own file, named `path/to/file.py:Name`: experiments, and methods for them."""

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

PREFIX = "amalgam_file_"


def load_file(path: Path) -> ModuleType:
    """The module of a user's file, under a name of its own; its neighbours can be imported by it."""
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(f"there is no Python file {path}; give path/to/file.py:NAME")
    name = f"{PREFIX}{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent.resolve()) not in sys.path:
        sys.path.append(str(path.parent.resolve()))
    spec.loader.exec_module(module)
    return module


def load_name(text: str, kind: str) -> Any:
    """What `path/to/file.py:Name` names. Raises ValueError if there is no such file, or no such name in it."""
    path, _, name = text.rpartition(":")
    try:
        return getattr(load_file(Path(path)), name)
    except AttributeError:
        raise ValueError(f"{path} has no {kind} {name!r}") from None


def source_digest(kind: type) -> dict[str, str]:
    """The digest of the user's file that defines a class, by the file's name: results of other code are others.

    Empty for classes of the program itself, whose steps have versions.
    """
    if not kind.__module__.startswith(PREFIX):
        return {}
    file = Path(sys.modules[kind.__module__].__file__ or "")
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest()[:16]}
