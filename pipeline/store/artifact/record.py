"""The record of a finished step, `step.json`, and the facts by which its files are known to be whole.

A record carries a digest of itself under `seal`, so that a flipped bit in it is found like one in any other file.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, ValidationError

from amalgam.pipeline.store.artifact.digests import digests_of_written

RECORD = "step.json"
CURVES = "metrics.json"
SEAL = "seal"
# JSON has no NaN; pydantic would write null, which no field takes back. Python, MLflow and jq read NaN and Infinity.
WITH_NAN = ConfigDict(frozen=True, ser_json_inf_nan="constants")
Moment = Annotated[float, Field(ge=0, lt=1e11)]
"""Unix time, in seconds, that calendars and MLflow know: up to the year 5138."""


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
    """Digests of the files of user-supplied data sets, by name, as they were when the step was planned."""
    metrics: dict[str, float | int | str]
    """Summary the step function returned."""
    files: dict[str, FileFacts]
    """By path inside the folder; `step.json` itself is not among them."""
    started: Moment
    seconds: NonNegativeFloat
    """Duration of the attempt that finished, by a clock that never jumps."""
    resources: dict[str, float]
    git_commit: str | None
    host: dict[str, str]
    usage: dict[str, float] = {}
    """CPU seconds and peaks of memory, in bytes, of the process that built it."""
    notes: tuple[str, ...] = ()
    """What happened while it was built, in sentences."""

    @property
    def key(self) -> str:
        """The folder's name in its store."""
        return f"{self.name}-{self.fingerprint}"

    @property
    def numbers(self) -> dict[str, float]:
        """The metrics that are numbers."""
        return {name: float(value) for name, value in self.metrics.items() if not isinstance(value, str)}

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
    time: Moment


def sealed(model: BaseModel) -> str:
    """The model as indented JSON with a digest of its content under `seal`."""
    fields = json.loads(model.model_dump_json())
    return json.dumps(fields | {SEAL: _seal(fields)}, indent=2) + "\n"


def unsealed(text: bytes) -> dict[str, Any]:
    """The fields that `sealed` wrote. Raises ValueError if they are not what was written.

    Text without a seal, of an earlier version, is taken as it is.
    """
    fields = json.loads(text)
    if not isinstance(fields, dict):
        raise ValueError(f"expected a JSON object, got {type(fields).__name__}")
    seal = fields.pop(SEAL, None)
    if seal is not None and seal != _seal(fields):
        raise ValueError("its content differs from its digest")
    return fields


def _seal(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def parsed_record(text: bytes) -> Record:
    """The record that a file `step.json` holds. Raises ValueError if it is not what was written."""
    fields = unsealed(text)
    # A flip in the word `seal` itself must not make a record pass for one of an earlier version.
    if unknown := fields.keys() - Record.model_fields.keys():
        raise ValueError(f"unknown fields {sorted(unknown)}")
    return Record.model_validate(fields)


def read_record(path: Path) -> Record:
    """The record of a finished artifact. Raises ValueError if it is absent or damaged."""
    try:
        return parsed_record((path / RECORD).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"no finished step lies in {path} (no {RECORD})") from None
    except (ValidationError, ValueError) as error:
        raise ValueError(f"{path / RECORD} is damaged; `amalgam run` sets it aside and builds it again") from error


def read_curves(path: Path) -> list[Point]:
    """The curves a step logged, in order of time; empty if it logged none. Raises ValueError if they are damaged."""
    file = path / CURVES
    try:
        return [Point(**point) for point in json.loads(file.read_text())] if file.is_file() else []
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} is damaged; `amalgam verify` lists what is") from error


def file_facts(folder: Path) -> dict[str, FileFacts]:
    """Size and SHA-256 of every file under `folder`, just written, by relative path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): FileFacts(bytes=path.stat().st_size, sha256=digest)
        for path, digest in zip(paths, digests_of_written(paths), strict=True)
    }
