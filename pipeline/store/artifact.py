"""Finished output on disk: a folder is there whole or not at all, and `step.json` in it is written last."""

import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

RECORD = "step.json"
CURVES = "metrics.json"
# JSON has no NaN; pydantic would write null, which no field takes back. Python, MLflow and jq read NaN and Infinity.
WITH_NAN = ConfigDict(frozen=True, ser_json_inf_nan="constants")


class FileFacts(BaseModel):
    """Size and digest of one file of an artifact."""

    model_config = ConfigDict(frozen=True)
    bytes: int
    sha256: str


class Record(BaseModel):
    """What `step.json` says of a finished step; everything MLflow shows is derived from it."""

    model_config = WITH_NAN
    name: str
    fingerprint: str
    version: int
    function: str
    config: dict[str, Any]
    """The canonical form: plain values, class names under `class`."""
    inputs: dict[str, str | list[str]]
    """Fingerprints by role."""
    data: dict[str, str] = {}
    """Digests of the files of data sets of one's own, by name, as they were when the step was planned."""
    metrics: dict[str, float | int | str]
    """Summary the step function returned."""
    files: dict[str, FileFacts]
    """By path inside the folder; `step.json` itself is not among them."""
    started: float
    """Unix time, in seconds."""
    seconds: float
    """Wall time of the attempt that finished."""
    resources: dict[str, float]
    git_commit: str | None
    host: dict[str, str]

    @property
    def key(self) -> str:
        """The folder's name in its store."""
        return f"{self.name}-{self.fingerprint}"

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(facts.bytes for facts in self.files.values())


class Point(BaseModel):
    """One value of one curve, as `Workspace.log` saw it."""

    model_config = WITH_NAN
    metric: str
    value: float
    step: int
    time: float
    """Unix time, in seconds."""


def is_complete(path: Path) -> bool:
    """Whether the folder holds a finished artifact."""
    return (path / RECORD).is_file()


def read_record(path: Path) -> Record:
    """The record of a finished artifact. Raises ValueError if it is absent or damaged."""
    try:
        return Record.model_validate_json((path / RECORD).read_bytes())
    except FileNotFoundError:
        raise ValueError(f"no finished step lies in {path} (no {RECORD})") from None
    except ValidationError as error:
        raise ValueError(f"{path / RECORD} is damaged; delete the folder to build it again") from error


def read_records(root: Path, name: str | None = None) -> list[Record]:
    """Records of every finished step under `root`, of one kind if `name` is given, oldest first."""
    folders = root.glob(f"{name or '*'}-*/{RECORD}")
    return sorted((read_record(path.parent) for path in folders), key=lambda record: record.started)


def read_curves(path: Path) -> list[Point]:
    """The curves a step logged, in order of time; empty if it logged none."""
    file = path / CURVES
    return [Point(**point) for point in json.loads(file.read_text())] if file.is_file() else []


def file_facts(folder: Path) -> dict[str, FileFacts]:
    """Size and SHA-256 of every file under `folder`, by relative path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): FileFacts(bytes=path.stat().st_size, sha256=_digest(path))
        for path in paths
    }


def publish(folder: Path, destination: Path) -> bool:
    """Move a whole folder to its place in one rename; False if another writer was there first."""
    try:
        os.rename(folder, destination)
    except OSError:
        if is_complete(destination):
            return False
        raise
    return True


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A file to write in, beside `path`, that takes its place only if the block succeeds; else it is removed.

    Its name is unique among all machines that see the folder, so that two writers never share it.
    """
    partial = path.with_name(f".{path.name}.partial-{uuid.uuid4().hex[:12]}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_folder(destination: Path) -> Iterator[Path]:
    """A folder to write in, beside `destination`, that takes its place only if the block succeeds.

    Raises ValueError if `destination` exists or its place cannot be written.
    """
    check_writable(destination.parent)
    if destination.exists():
        raise ValueError(f"{destination} exists already: choose another folder or remove it")
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=f".{destination.name}.") as place:
        folder = Path(place) / destination.name
        folder.mkdir()
        yield folder
        os.rename(folder, destination)


def check_writable(root: Path) -> None:
    """Raise ValueError, in one sentence, if `root` cannot be made or written, by writing a megabyte there."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root) as probe:
            probe.write(bytes(2**20))
            probe.flush()
    except OSError as error:
        raise ValueError(
            f"cannot write to {root}: {error.strerror or error}; free it or choose another folder"
        ) from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
