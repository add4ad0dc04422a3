"""Which folders under a root hold a finished step, which are damaged, and where damaged ones are put.

A folder is finished if its record can be read, is its own, and every file that it names has the size it names. That
costs a look at each file. Whether their bytes are the same is checked when a step is about to read them.
"""

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from amalgam.pipeline.store.artifact.digests import digest_of, fresh_digest
from amalgam.pipeline.store.artifact.record import RECORD, FileFacts, Record, read_record
from amalgam.pipeline.store.artifact.writing import flush_names

KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]*-[0-9a-f]{16}")
SET_ASIDE = ".damaged"


@dataclass(frozen=True)
class Damage:
    """A folder that holds no whole step, and what is wrong with it."""

    path: Path | str
    """Where it lies; text is an address."""
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Survey:
    """What lies under a root."""

    records: tuple[Record, ...]
    """Of finished steps, oldest first."""
    damaged: tuple[Damage, ...]
    """Folders named as steps that hold none."""


def finished(path: Path) -> Record | None:
    """The record of the finished step in a folder; None if it holds none or a damaged one."""
    try:
        record = read_record(path)
    except (ValueError, OSError):
        return None
    return None if _misplaced(path, record) or _wrong_size(path, record) else record


def damage_of(path: Path, digest: Callable[[Path], str] = digest_of) -> Damage | None:
    """What is wrong with the step in a folder, every byte of it compared; None if it is whole.

    By default a file that this machine has compared or written, and that has not changed since, is not read again.
    """
    try:
        record = read_record(path)
    except ValueError as error:
        return Damage(path, f"its {RECORD} is damaged" if error.__cause__ else f"it has no {RECORD}")
    except OSError as error:
        return Damage(path, f"its {RECORD} cannot be read ({error.strerror or error})")
    reason = _misplaced(path, record) or _wrong_size(path, record) or _wrong_bytes(path, record, digest)
    return Damage(path, reason) if reason else None


def set_aside(path: Path) -> Path | None:
    """Move a folder out of the way, into `.damaged` beside it; None if it was gone already."""
    aside = path.parent / SET_ASIDE
    aside.mkdir(exist_ok=True)
    place = aside / f"{path.name}-{time.time_ns()}"
    try:
        os.rename(path, place)
    except FileNotFoundError:
        return None
    flush_names(path.parent)
    return place


def survey(root: Path, name: str | None = None) -> Survey:
    """All steps under `root`, of one kind if `name` is given; a damaged one hides no other."""
    records, damaged = list[Record](), list[Damage]()
    for path in sorted(root.glob(f"{name or '*'}-*")):
        if not KEY.fullmatch(path.name) or (name and path.name.rpartition("-")[0] != name):
            continue
        if record := finished(path):
            records.append(record)
        else:
            damaged.append(damage_of(path) or Damage(path, "it changes at this moment"))
    return Survey(tuple(sorted(records, key=lambda record: record.started)), tuple(damaged))


def read_records(root: Path, name: str | None = None) -> list[Record]:
    """Records of every finished step under `root`, of one kind if `name` is given, oldest first."""
    return list(survey(root, name).records)


def verify(root: Path) -> tuple[int, list[Damage]]:
    """How many steps lie under `root`, and the damaged ones among them; every byte is read."""
    paths = [path for path in sorted(root.glob("*-*")) if KEY.fullmatch(path.name)]
    return len(paths), [damage for path in paths if (damage := damage_of(path, fresh_digest))]


def _misplaced(path: Path, record: Record) -> str | None:
    return None if record.key == path.name else f"its {RECORD} is that of {record.key}"


def _wrong_size(path: Path, record: Record) -> str | None:
    for name, facts in record.files.items():
        try:
            size = (path / name).stat().st_size
        except OSError as error:
            return f"{name} cannot be read ({error.strerror or error})"
        if size != facts.bytes:
            return f"{name} has {size} bytes instead of {facts.bytes}"
    return None


def _wrong_bytes(path: Path, record: Record, digest: Callable[[Path], str]) -> str | None:
    return next(
        (why for name, facts in record.files.items() if (why := _differs(path / name, name, facts, digest))), None
    )


def _differs(file: Path, name: str, facts: FileFacts, digest: Callable[[Path], str]) -> str | None:
    try:
        return None if digest(file) == facts.sha256 else f"{name} differs from what was written"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror or error})"
