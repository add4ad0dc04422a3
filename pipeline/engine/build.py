"""Build one step: run its function in a folder of its own, write the record, move the folder to its place.

While a step is being built its traces lie in `{root}/.building/{key}/`: `out` becomes the artifact, `scratch` and
`curves.jsonl` survive a retry, `started` dates the attempt. `{root}/.locks/{key}` lets one builder in at a time.
"""

import errno
import importlib
import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from amalgam.pipeline.engine.host import device_of, host_facts, metered, sampled, threads
from amalgam.pipeline.engine.place import Place, require_whole
from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.engine.workspace import NOTES, Workspace, warnings_noted
from amalgam.pipeline.store.artifact import (
    CURVES,
    RECORD,
    Point,
    Record,
    check_writable,
    file_facts,
    sealed,
)
from amalgam.pipeline.store.canonical import canonical
from amalgam.tasks.training.epochs import Diverged

STARTED = "started"  # Its time of change is when the attempt at hand began.
LIVE_CURVES = "curves.jsonl"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
FORBIDDEN = (errno.EACCES, errno.EPERM)
LOG = logging.getLogger(__name__)


def build(step: Step, place: Place) -> Record:
    """The record of the step, built now or, if another driver was first, found.

    Raises ValueError for what a user can mend and OSError for what a retry may mend. What a training saved in its
    scratch folder is kept, unless the step's own function refuses its config or inputs. Raises DamagedInput, with the
    inputs set aside, if they are not what was written.
    """
    folder = place.building(step)
    with place.storage.alone(step.key):
        if there := place.storage.finished([step.key]):
            _remove(folder)
            return there[step.key]
        require_whole(step.parents, place)
        try:
            record = _run(step, place, folder)
        except Exception as error:
            unwritable = _unwritable(place.root, error)
            _remove(folder / "out")
            saved = _saved(folder)
            if not saved:
                _remove(folder)
            if unwritable:
                raise unwritable from error
            if isinstance(error, Diverged) and saved:
                raise Diverged(f"{error}; its last good state is kept in {saved}") from error
            raise
        _remove(folder)
        return record


def resolve(function: str | Any) -> Any:
    """The callable that `module:function` names; a callable names itself."""
    if callable(function):
        return function
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


def _run(step: Step, place: Place, folder: Path) -> Record:
    work = _workspace(step, place, folder)
    out = work.out
    _remove(out)
    out.mkdir(parents=True)
    work.scratch.mkdir(exist_ok=True)
    (folder / STARTED).touch()
    _end_line(work.curves)
    started, clock = time.time(), time.monotonic()
    with metered(work.device) as usage, sampled(work.device) as samples:
        metrics = _call(step, place, work)
    _write_curves(work.curves, samples, out / CURVES)
    record = Record(
        name=step.name,
        fingerprint=step.fingerprint,
        version=step.version,
        function=_function_name(step.function),
        config=canonical(step.config),
        inputs=step.identity["inputs"],
        data=dict(step.data),
        metrics=dict(metrics),
        files=file_facts(out),
        started=started,
        seconds=time.monotonic() - clock,
        resources={
            name: getattr(step.resources, name) for name in ("num_cpus", "num_gpus", "num_workers", "memory_gb")
        },
        git_commit=place.git_commit,
        host=host_facts(work.device),
        usage=usage,
        notes=tuple(dict.fromkeys((folder / NOTES).read_text().splitlines())) if (folder / NOTES).is_file() else (),
    )
    (out / RECORD).write_text(sealed(record))
    place.storage.publish(out, step.key)
    return record


def _workspace(step: Step, place: Place, folder: Path) -> Workspace:
    wanted = step.resources
    # Of processes that train together, each finds its own GPU; the one that waits for them needs none.
    device = "cpu" if wanted.num_workers > 1 else device_of(wanted)
    return Workspace(
        folder / "out",
        folder / "scratch",
        place.data_root,
        device,
        folder / LIVE_CURVES,
        wanted.num_workers,
        wanted.num_gpus,
        wanted.num_cpus,
    )


def _call(step: Step, place: Place, work: Workspace) -> Mapping[str, float | int | str]:
    inputs = {
        role: value.path(place.root) if isinstance(value, Step) else tuple(s.path(place.root) for s in value)
        for role, value in step.inputs.items()
    }
    num_threads = max(1, int(step.resources.num_cpus))
    function = resolve(step.function)
    with threads(num_threads), warnings_noted(work):
        try:
            return function(step.config, inputs, work)
        except ValueError as error:
            # Refused, as it would be again; a ValueError from anywhere else costs no saved state.
            if not isinstance(error, Diverged) and not _unwritable(place.root, error):
                _remove(place.building(step))
            raise


def _write_curves(source: Path, samples: Sequence[Point], destination: Path) -> None:
    """Keep the last value of each metric at each step: a retry logs again what came after its checkpoint."""
    points = {(point.metric, point.step): point.model_dump() for point in samples}
    for row in _logged(source) if source.is_file() else ():
        step, moment = row["step"], row["time"]
        for metric, value in row["metrics"].items():  # as `Point` has it; 100,000 of these would take half a second
            points[metric, step] = {"metric": metric, "value": value, "step": step, "time": moment}
    if points:
        destination.write_text("[\n" + ",\n".join(map(json.dumps, points.values())) + "\n]\n")


def _logged(curves: Path) -> Iterator[dict[str, Any]]:
    """What `Workspace.log` wrote, without the lines that a dying machine left torn."""
    for number, line in enumerate(curves.read_bytes().splitlines(), 1):
        try:
            yield json.loads(line)
        except (json.JSONDecodeError, UnicodeDecodeError):
            LOG.warning("line %d of %s is torn: the points it had are logged again or lost", number, curves)


def _end_line(curves: Path) -> None:
    """End a line that an earlier attempt left torn, or it would spoil the first one of this attempt."""
    if curves.is_file() and not curves.read_bytes().endswith(b"\n"):
        with curves.open("a") as file:
            file.write("\n")


def _function_name(function: Any) -> str:
    return function if isinstance(function, str) else f"{function.__module__}:{function.__qualname__}"


def _remove(folder: Path) -> None:
    """Remove what can be removed, and log what cannot: an artifact is no less complete for traces that stay."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        LOG.warning("%s cannot be removed: remove it by hand", folder)


def _saved(folder: Path) -> Path | None:
    """The scratch folder, if a training saved something there."""
    scratch = folder / "scratch"
    return scratch if scratch.is_dir() and any(scratch.iterdir()) else None


def _unwritable(root: Path, error: Exception) -> ValueError | None:
    """One sentence if the failure is, whatever library raised it, that of a full or read-only disk.

    Other trouble with the file system may pass, so it is left to a retry.
    """
    try:
        check_writable(root)
    except ValueError as unwritable:
        cause = unwritable.__cause__
        return unwritable if isinstance(cause, OSError) and cause.errno in FULL + FORBIDDEN else None
    if isinstance(error, OSError) and error.errno in FULL:
        return ValueError(f"cannot write {error.filename or root}: {error.strerror}; free it or choose another folder")
    return None
