"""The record of one run of an experiment, a small JSON file under the root: all that MLflow shows is made of these.

A step's record says how it was built; a run's record says which steps one command asked for, built and found built.
"""

import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from amalgam.pipeline.engine.execute import Event
from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.store.artifact import written_whole
from amalgam.pipeline.store.canonical import canonical

FOLDER = ".runs"


class RunRecord(BaseModel):
    """What one run of an experiment asked for, and what became of it."""

    model_config = ConfigDict(frozen=True)
    experiment: str
    """Name of the experiment function."""
    config: dict[str, Any] = {}
    """Its keyword arguments, in canonical form."""
    started: float
    """Unix time, in seconds."""
    seconds: float | None = None
    """Wall time; None while it runs, and for good if it was killed."""
    targets: tuple[str, ...] = ()
    """Fingerprints of the steps asked for, whether finished or not."""
    built: tuple[str, ...] = ()
    """Fingerprints of the steps built by this run, inputs before their readers."""
    cached: tuple[str, ...] = ()
    """Fingerprints of the steps found built."""
    failures: tuple[str, ...] = ()
    """One sentence per failed step, and one if the run was broken off."""

    @classmethod
    def begun(cls, experiment: str, config: Mapping[str, Any], targets: Sequence[Step]) -> Self:
        """The record of a run that begins now."""
        asked = tuple(step.fingerprint for step in targets)
        return cls(experiment=experiment, config=canonical(config), started=time.time(), targets=asked)

    def after(self, event: Event) -> Self:
        """The record with what became of one more step."""
        key = event.step.fingerprint
        built = self.built + (key,) * (event.kind == "built")
        cached = self.cached + (key,) * (event.kind == "cached")
        failures = self.failures + ((f"step {event.step.key}: {_last_line(event.error)}",) if event.error else ())
        return self.model_copy(update={"built": built, "cached": cached, "failures": failures})

    def ended(self, error: BaseException | None = None) -> Self:
        """The record of the run, which ends now; `error` is what broke it off, if that was no step's failure."""
        broken_off = (f"broken off: {_last_line(error)}",) if error else ()
        return self.model_copy(update={"seconds": time.time() - self.started, "failures": self.failures + broken_off})

    @property
    def key(self) -> str:
        """Name of the run, unique under its root: the experiment and when it started, to the millisecond, in UTC.

        It is the run's identity in MLflow, so it must be the same wherever the record is read.
        """
        stamp = datetime.fromtimestamp(self.started, UTC).strftime("%Y%m%d-%H%M%S-%f")[:-3]
        return f"{re.sub(r'[^A-Za-z0-9_.]+', '_', self.experiment)}-{stamp}"

    @property
    def title(self) -> str:
        """Name of the run beside others of its experiment: when it started, in local time."""
        return f"{datetime.fromtimestamp(self.started):%Y-%m-%d %H:%M:%S}"

    def path(self, root: Path) -> Path:
        """Where the record lies under `root`."""
        return root / FOLDER / f"{self.key}.json"

    def write(self, root: Path) -> Path:
        """Keep the record under `root`, whole or not at all, in place of an earlier state of it."""
        path = self.path(root)
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as partial:
            partial.write_text(self.model_dump_json(indent=2) + "\n")
        return path


def read_runs(root: Path) -> list[RunRecord]:
    """The records of all runs under `root`, oldest first. Raises ValueError if one is damaged."""
    return sorted(map(_read, (root / FOLDER).glob("*.json")), key=lambda run: run.started)


def _read(path: Path) -> RunRecord:
    try:
        return RunRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path} is damaged; remove it: the steps it names have records of their own") from error


def _last_line(error: BaseException) -> str:
    """What the error says in the end, where a worker's traceback has its message; its kind if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
