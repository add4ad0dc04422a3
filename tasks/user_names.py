"""Names that users write: what an unknown one may have meant, and `path/to/file.py:Name`, code in a file of theirs."""

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

PREFIX = "amalgam_file_"
ELSEWHERE = Path(".amalgam_files")
"""Where a worker of a cluster has copies of files that are named by a whole path, below its working folder."""
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
    """The file itself, or on a worker of a cluster its copy."""
    copy = ELSEWHERE / path.relative_to(path.anchor)
    if not path.is_file() and path.is_absolute() and copy.is_file():
        return copy
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(f"there is no Python file {path}; give path/to/file.py:NAME")
    return path


def sources(path: Path) -> list[Path]:
    """A user's file, and then those beside it that it imports, and what they import in turn, with whole packages."""
    first = path.resolve()
    found, waiting = list[Path](), [first]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.append(file)
            waiting += [source for name in sorted(_imported(file)) for source in _beside(first.parent, name)]
    return [first, *sorted(found[1:])]


def _imported(file: Path) -> set[str]:
    """The first parts of the names of the modules that a file imports; none of one that is no Python."""
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError):
        return set()
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.partition(".")[0] for name in names}


def _beside(folder: Path, name: str) -> list[Path]:
    module, package = folder / f"{name}.py", folder / name
    if (package / "__init__.py").is_file():
        return sorted(package.rglob("*.py"))
    return [module] if module.is_file() else []


def file_digest(path: Path) -> str:
    """16 hex digits of the SHA-256 of a file and, if it imports files beside it, of these."""
    digest = hashlib.sha256()
    for source in sources(path):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def load_file(path: Path) -> ModuleType:
    """The module of a user's file, under a separate name; it can import modules beside it.

    A file that has not changed is not run again: two networks made by one class must be of that class.
    """
    path = _python_file(path)
    name = f"{PREFIX}{path.stem}"
    digest, known = file_digest(path), sys.modules.get(name)
    if known is not None and (known.__file__, getattr(known, DIGEST, None)) == (str(path.resolve()), digest):
        return known
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec and spec.loader, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    neighbours = sources(path)[1:]
    for stale in [key for key, known in sys.modules.items() if _is_file(known, neighbours)]:
        del sys.modules[stale]  # a neighbour that has changed is imported anew
    sys.modules[name] = module
    if str(path.parent.resolve()) not in sys.path:
        sys.path.append(str(path.parent.resolve()))
    spec.loader.exec_module(module)
    setattr(module, DIGEST, digest)
    return module


def _is_file(module: ModuleType, files: Sequence[Path]) -> bool:
    return bool(files) and str(getattr(module, "__file__", None)) in map(str, files)


def load_name(text: str, kind: str) -> Any:
    """What `path/to/file.py:Name` names. Raises ValueError if there is no such file, or no such name in it."""
    path, _, name = text.rpartition(":")
    try:
        return getattr(load_file(Path(path)), name)
    except AttributeError:
        raise ValueError(f"{path} has no {kind} {name!r}") from None


def source_digest(kind: Any) -> dict[str, str]:
    """The digest of the user's file that defines a class or function, by the file's name: other code, other results.

    Empty for those of the program itself, whose steps have versions.
    """
    if not kind.__module__.startswith(PREFIX):
        return {}
    file = Path(sys.modules[kind.__module__].__file__ or "")
    return {file.name: file_digest(file)}
