"""Code in a user's files, and beside them, on the way to workers of a cluster that have no such files.

Functions and classes travel by value with their steps. A model or a data set is named by its file, so the files travel
too, as the working folder of the workers: under the names that a config has for them.
"""

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import ray

from amalgam.pipeline.engine.data_digests import named_files, parts_of
from amalgam.pipeline.engine.step import Step
from amalgam.tasks.user_names import ELSEWHERE, PREFIX, sources

PACKAGE = "amalgam"


def travel_by_value(steps: Sequence[Step]) -> None:
    """Send along the modules of functions and configs that a worker has no path to, such as a user's own file."""
    for module in _modules(steps):
        package = module.__name__.partition(".")[0]
        # Ours are installed wherever a worker runs; by value their classes would be others than those it imports.
        if package != PACKAGE and PathFinder.find_spec(package) is None:
            ray.cloudpickle.register_pickle_by_value(module)
            for neighbour in _neighbours(module):
                ray.cloudpickle.register_pickle_by_value(neighbour)


@contextmanager
def runtime_environment(steps: Sequence[Step]) -> Iterator[dict[str, Any]]:
    """What workers of a cluster get from here: this package, and the files of the user's that the steps name."""
    code = {"py_modules": [str(Path(sys.modules[PACKAGE].__path__[0]))]}
    files = {file for step in steps for file in named_files(step)}
    files |= {Path(module.__file__ or "") for module in _modules(steps) if module.__name__.startswith(PREFIX)}
    if not files:
        yield code
        return
    with TemporaryDirectory(prefix="amalgam-") as place:
        for file in files:
            for source in sources(file):
                for name in _names(source, file.resolve().parent):
                    (Path(place) / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source, Path(place) / name)
        yield code | {"working_dir": place}


def _names(source: Path, folder: Path) -> set[Path]:
    """Where a file lies in the working folder: as it is named from here, in full, and for its neighbours' imports."""
    names = {ELSEWHERE / source.relative_to(source.anchor), source.relative_to(folder)}
    return names | ({source.relative_to(Path.cwd())} if source.is_relative_to(Path.cwd()) else set())


def _modules(steps: Sequence[Step]) -> list[ModuleType]:
    """The modules, made of files, of the steps' functions and configs."""
    parts = [part for step in steps for part in (step.function, *parts_of(step.config), step.check, step.slow_check)]
    homes = {_home(part) for part in parts if part is not None and not isinstance(part, str)}
    return [sys.modules[home] for home in homes if getattr(sys.modules[home], "__file__", None)]


def _neighbours(module: ModuleType) -> list[ModuleType]:
    """The modules that a user's file has imported from files beside it."""
    if not module.__name__.startswith(PREFIX):
        return []
    files = set(map(str, sources(Path(module.__file__ or ""))[1:]))
    return [each for each in list(sys.modules.values()) if getattr(each, "__file__", None) in files]


def _home(part: Any) -> str:
    return part.__module__ if callable(part) else type(part).__module__
