"""Build one step: run its function in a folder of its own, write the record, move the folder to its place.

While a step is being built its traces lie in `{root}/.building/{key}/`: `out` becomes the artifact, `scratch` and
`curves.jsonl` survive a retry, `lock` lets one builder in at a time, `started` dates the attempt.
"""

import errno
import fcntl
import importlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifact import (
    CURVES,
    RECORD,
    Point,
    Record,
    check_writable,
    file_facts,
    is_complete,
    publish,
    read_record,
)
from pipeline.host import device_of, host_facts, threads
from pipeline.step import Step, canonical
from tasks.diverged import Diverged

STARTED = "started"  # Its time of change is when the attempt at hand began.
LIVE_CURVES = "curves.jsonl"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Place:
    """Where a graph is built and what its steps may read; never part of a step's identity."""

    root: Path
    """Folder of all artifacts; on a cluster, one that every machine sees."""
    data_root: Path | None = None
    """Folder of data sets that steps may read."""
    git_commit: str | None = None

    def building(self, step: Step) -> Path:
        """The folder with the traces of a step that is not finished."""
        return self.root / ".building" / step.key


@dataclass(frozen=True)
class Workspace:
    """What a step function may touch besides its config and inputs."""

    out: Path
    """Write the output here; it becomes the artifact."""
    scratch: Path
    """Resume checkpoints: kept when the step is retried, removed when it completes."""
    data_root: Path | None
    """Folder of data sets, if the user gave one."""
    device: str
    """`cuda` where the step asked for a GPU, else `cpu`."""
    curves: Path
    """File that `log` appends to."""
    num_workers: int = 1
    """Processes that are to train together, through Ray Train."""
    gpus_each: float = 0
    """GPUs for each of them."""
    cpus_each: float = 1
    """CPU cores for each of them."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add one value to each named curve; the curves are kept in the artifact and shown in MLflow."""
        row = {
            "step": step,
            "time": time.time(),
            "metrics": {name: float(value) for name, value in metrics.items()},
        }
        with self.curves.open("a") as file:
            file.write(json.dumps(row) + "\n")


def build(step: Step, place: Place) -> Record:
    """The record of the step, built now or, if another driver was first, found.

    Raises ValueError for what a user can mend (nothing is left behind, but the state that a diverged training saved)
    and OSError for what a retry may mend.
    """
    folder = place.building(step)
    with alone(folder):
        if is_complete(step.path(place.root)):
            shutil.rmtree(folder)
            return read_record(step.path(place.root))
        try:
            record = _run(step, place, folder)
        except Exception as error:
            unwritable = _unwritable(place.root, error)
            given_up = unwritable or (isinstance(error, ValueError) and not isinstance(error, Diverged))
            shutil.rmtree(folder if given_up else folder / "out", ignore_errors=True)
            if unwritable:
                raise unwritable from error
            if isinstance(error, Diverged) and any((folder / "scratch").iterdir()):
                raise Diverged(f"{error}; its last good state is kept in {folder / 'scratch'}") from error
            raise
        shutil.rmtree(folder)
        return record


def resolve(function: str | Any) -> Any:
    """The callable that `module:function` names; a callable names itself."""
    if callable(function):
        return function
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Make the folder and be the only builder in it; the kernel frees the lock of a builder that dies."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_same_file(lock.fileno(), folder / "lock"):
                continue  # The builder before us finished and removed the folder.
            yield
            return


def _run(step: Step, place: Place, folder: Path) -> Record:
    out, scratch = folder / "out", folder / "scratch"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    scratch.mkdir(exist_ok=True)
    (folder / STARTED).touch()
    work = _workspace(step, place, folder)
    started = time.time()
    metrics = _call(step, place, work)
    _write_curves(work.curves, out / CURVES)
    record = Record(
        name=step.name,
        fingerprint=step.fingerprint,
        version=step.version,
        function=_function_name(step.function),
        config=canonical(step.config),
        inputs=step.identity["inputs"],
        metrics=dict(metrics),
        files=file_facts(out),
        started=started,
        seconds=time.time() - started,
        resources={name: getattr(step.resources, name) for name in ("num_cpus", "num_gpus", "num_workers")},
        git_commit=place.git_commit,
        host=host_facts(work.device),
    )
    (out / RECORD).write_text(record.model_dump_json(indent=2) + "\n")
    publish(out, step.path(place.root))
    return record


def _workspace(step: Step, place: Place, folder: Path) -> Workspace:
    asked = step.resources
    # Of processes that train together, each finds its own GPU; the one that waits for them needs none.
    device = "cpu" if asked.num_workers > 1 else device_of(asked)
    return Workspace(
        folder / "out", folder / "scratch", place.data_root, device, folder / LIVE_CURVES,
        asked.num_workers, asked.num_gpus, asked.num_cpus,
    )  # fmt: skip


def _call(step: Step, place: Place, work: Workspace) -> Mapping[str, float | int | str]:
    inputs = {
        role: value.path(place.root) if isinstance(value, Step) else tuple(s.path(place.root) for s in value)
        for role, value in step.inputs.items()
    }
    num_threads = max(1, int(step.resources.num_cpus))
    function = resolve(step.function)
    with threads(num_threads):
        return function(step.config, inputs, work)


def _write_curves(source: Path, destination: Path) -> None:
    """Keep the last value of each metric at each step: a retry logs again what came after its checkpoint."""
    if not source.is_file():
        return
    points: dict[tuple[str, int], Point] = {}
    for row in map(json.loads, source.read_text().splitlines()):
        for metric, value in row["metrics"].items():
            points[metric, row["step"]] = Point(metric=metric, value=value, step=row["step"], time=row["time"])
    destination.write_text("[\n" + ",\n".join(point.model_dump_json() for point in points.values()) + "\n]\n")


def _function_name(function: Any) -> str:
    return function if isinstance(function, str) else f"{function.__module__}:{function.__qualname__}"


def _unwritable(root: Path, error: Exception) -> ValueError | None:
    """One sentence if the failure is, whatever library raised it, that of a full or read-only disk."""
    try:
        check_writable(root)
    except ValueError as unwritable:
        return unwritable
    if isinstance(error, OSError) and error.errno in FULL:
        return ValueError(f"cannot write {error.filename or root}: {error.strerror}; free it or choose another folder")
    return None


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
