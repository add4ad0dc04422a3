"""Names that users write: what an unknown one may have meant, and `path/to/file.py:Name`, code in a file of theirs."""

import hashlib
import importlib.util
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

PREFIX = "amalgam_file_"
DIGEST = "__amalgam_digest__"  # of the file that a module was made from


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a `name` of some `kind` ("model", "data set") that is not among the `known` ones."""
    known = sorted(known)
    spelled = {one.lower(): one for one in known}
    near = [spelled[one] for one in get_close_matches(name.lower(), spelled, n=3, cutoff=0.6)]
    listed = ", ".join(known[:20]) or "none"
    remedy = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known are {listed}."
    return ValueError(f"there is no {kind} {name!r}: {remedy}")


def is_in_file(text: str) -> bool:
    """Whether a text has the form `path/to/file.py:Name`."""
    path, _, name = text.rpartition(":")
    return path.endswith(".py") and name.isidentifier()


def file_of(text: str) -> Path:
    """The file of `path/to/file.py:Name`. Raises ValueError if there is none."""
    return _python_file(Path(text.rpartition(":")[0]))


def _python_file(path: Path) -> Path:
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(f"there is no Python file {path}; give path/to/file.py:NAME")
    return path


def file_digest(path: Path) -> str:
    """16 hex digits of the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def load_file(path: Path) -> ModuleType:
    """The module of a user's file, under a separate name; it can import modules beside it.

    A file that has not changed is not run again: two networks made by one class must be of that class.
    """
    _python_file(path)
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
