"""Code in a user's own file, named `path/to/file.py:Name`: experiments, methods, regularisers, models and data sets."""

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

PREFIX = "amalgam_file_"
DIGEST = "__amalgam_digest__"  # of the file that a module was made from


def is_in_file(text: str) -> bool:
    """Whether a text has the form `path/to/file.py:Name`."""
    path, _, name = text.rpartition(":")
    return path.endswith(".py") and name.isidentifier()


def file_of(text: str) -> Path:
    """The file of `path/to/file.py:Name`. Raises ValueError if there is none."""
    path = Path(text.rpartition(":")[0])
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(f"there is no Python file {path}; give path/to/file.py:NAME")
    return path


def file_digest(path: Path) -> str:
    """16 hex digits of the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def load_file(path: Path) -> ModuleType:
    """The module of a user's file, under a name of its own; its neighbours can be imported by it.

    A file that has not changed is not run again: two networks made by one class must be of that class.
    """
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(f"there is no Python file {path}; give path/to/file.py:NAME")
    name = f"{PREFIX}{path.stem}"
    digest, known = file_digest(path), sys.modules.get(name)
    if known is not None and (known.__file__, getattr(known, DIGEST, None)) == (str(path.resolve()), digest):
        return known
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec and spec.loader, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent.resolve()) not in sys.path:
        sys.path.append(str(path.parent.resolve()))
    spec.loader.exec_module(module)
    setattr(module, DIGEST, digest)
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
    return {file.name: file_digest(file)}
