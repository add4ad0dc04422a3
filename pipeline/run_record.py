"""The record of one run of an experiment, a small JSON file under the root: all that MLflow shows is made of these.

A step's record says how it was built; a run's record says which steps one command asked for, built and found built.
"""

import os
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.execute import Run, StepsFailed
from pipeline.step import canonical

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
    """Wall time; None while it runs."""
    targets: tuple[str, ...] = ()
    """Fingerprints of the steps asked for, whether finished or not."""
    built: tuple[str, ...] = ()
    """Fingerprints of the steps built by this run, inputs before their readers."""
    cached: tuple[str, ...] = ()
    """Fingerprints of the steps found built."""
    failures: tuple[str, ...] = ()
    """One sentence per failed step."""

    @classmethod
    def of(cls, experiment: str, config: Mapping[str, Any], run: Run, failed: StepsFailed | None = None) -> Self:
        """The record of a finished run; `failed` is what `pipeline.execute.run` raised, if it did."""
        return cls(
            experiment=experiment,
            config=canonical(config),
            started=run.started,
            seconds=run.seconds,
            targets=tuple(step.fingerprint for step in run.targets),
            built=run.built,
            cached=run.cached,
            failures=tuple(map(_sentence, failed.exceptions)) if failed else (),
        )

    @property
    def key(self) -> str:
        """Name of the run, unique under its root: the experiment and when it started, to the millisecond."""
        stamp = datetime.fromtimestamp(self.started).strftime("%Y%m%d-%H%M%S-%f")[:-3]
        return f"{re.sub(r'[^A-Za-z0-9_.]+', '_', self.experiment)}-{stamp}"

    @property
    def title(self) -> str:
        """Name of the run beside others of its experiment: when it started, in local time."""
        return f"{datetime.fromtimestamp(self.started):%Y-%m-%d %H:%M:%S}"

    def write(self, root: Path) -> Path:
        """Keep the record under `root`, whole or not at all."""
        path = root / FOLDER / f"{self.key}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".partial-{os.getpid()}")
        partial.write_text(self.model_dump_json(indent=2) + "\n")
        os.replace(partial, path)
        return path


def read_runs(root: Path) -> list[RunRecord]:
    """The records of all runs under `root`, oldest first. Raises ValueError if one is damaged."""
    return sorted(map(_read, (root / FOLDER).glob("*.json")), key=lambda run: run.started)


def _read(path: Path) -> RunRecord:
    try:
        return RunRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path} is damaged; remove it: the steps it names have records of their own") from error


def _sentence(error: Exception) -> str:
    where = "".join(f"{note}: " for note in getattr(error, "__notes__", []))
    return f"{where}{str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__}"
