"""The record of one run of an experiment, a small JSON file under the root: all that MLflow shows is made of these.

A step's record says how it was built; a run's record says which steps one command requested, built and found built.
"""

import os
import re
import socket
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, NonNegativeFloat

from amalgam.pipeline.engine.execute import Event
from amalgam.pipeline.engine.host import origin
from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.store.artifact import Moment, Record, sealed, unsealed
from amalgam.pipeline.store.canonical import canonical
from amalgam.pipeline.store.storage import Process, storage_of
from amalgam.tasks.user_names import file_of, is_in_file

FOLDER = ".runs"
BEAT = 30.0  # seconds between two touches of the record of a run that goes on
SILENCE = 20 * BEAT  # after which a driver of another machine counts as dead; a network may be away for minutes
REGISTER, ALIAS = "register", "alias"  # tags of a run: under what name its best network is registered
NETWORKS = ("fused", "finetuned", "tuned", "merged", "merged_clips")
"""Kinds of steps whose networks are shown as models, and may be registered as what an experiment is for."""
PARTS = ("member", "task", "rival")
"""Kinds of steps whose networks are shown as models too: what is fused, merged or compared with."""


class RunRecord(BaseModel):
    """What one run of an experiment requested, and what became of it."""

    model_config = ConfigDict(frozen=True)
    experiment: str
    """Name of the experiment function."""
    config: dict[str, Any] = {}
    """Its keyword arguments, in canonical form."""
    started: Moment
    seconds: NonNegativeFloat | None = None
    """Wall time; None while it runs, and for good if it was killed."""
    targets: tuple[str, ...] = ()
    """Fingerprints of the requested steps, whether finished or not."""
    built: tuple[str, ...] = ()
    """Fingerprints of the steps built by this run, inputs before their readers."""
    cached: tuple[str, ...] = ()
    """Fingerprints of the steps found built."""
    needs: tuple[str, ...] = ()
    """Fingerprints of all steps that the targets need; none once the run has built or found them all."""
    failures: tuple[str, ...] = ()
    """One sentence per failed step, and one if the run was broken off."""
    driver: Process | None = None
    """What runs it."""
    beats: bool = False
    """Whether its driver touches the record while it runs, as those of earlier versions did not."""
    nonce: str = ""
    """Random letters that tell it from a run that began in the same instant; none in records of earlier versions."""
    was_killed: bool = False
    """Whether its driver was ended from outside."""
    tags: dict[str, str] = {}
    """What else is said of the run, such as the verdict of a night."""
    origin: dict[str, str] = {}
    """Who started it, by which command, and the commit of their code; none in records of earlier versions."""

    @classmethod
    def begun(cls, experiment: str, config: Mapping[str, Any], targets: Sequence[Step]) -> Self:
        """The record of a run that begins now."""
        requested = tuple(step.fingerprint for step in targets)
        return cls(
            experiment=experiment,
            config=canonical(config),
            started=time.time(),
            targets=requested,
            driver=Process.this(),
            beats=True,
            nonce=uuid.uuid4().hex[:6],
            origin=origin(file_of(experiment).parent if is_in_file(experiment) else Path.cwd()),
        )

    def after(self, event: Event) -> Self:
        """The record with what became of one more step."""
        key = event.step.fingerprint
        built = self.built + (key,) * (event.kind == "built")
        cached = self.cached + (key,) * (event.kind == "cached")
        if event.kind == "damaged":  # found, and then seen to be no longer whole
            cached = tuple(other for other in cached if other != key)
        failures = self.failures + ((f"step {event.step.key}: {_last_line(event.error)}",) if event.error else ())
        return self.model_copy(update={"built": built, "cached": cached, "failures": failures})

    def ended(self, error: BaseException | None = None, seconds: float | None = None) -> Self:
        """The record of the run, which ends now; `error` is what broke it off, if that was no step's failure.

        `seconds` is how long it took by a clock that does not jump; without it, by the one that tells the time.
        """
        broken_off = (f"broken off: {_last_line(error)}",) if error else ()
        took = max(0.0, time.time() - self.started) if seconds is None else seconds
        failures = self.failures + broken_off
        needs = self.needs if failures else ()
        return self.model_copy(update={"seconds": took, "failures": failures, "needs": needs})

    def killed(self, seconds: float) -> Self:
        """The record of the run, whose driver was ended from outside after so many seconds."""
        return self.model_copy(update={"seconds": seconds, "was_killed": True})

    @property
    def links(self) -> set[str]:
        """Fingerprints of all steps that it built, found or will need."""
        return {*self.targets, *self.needs, *self.built, *self.cached}

    def networks(self, records: Mapping[str, Record]) -> list[str]:
        """Fingerprints of the steps whose networks it shows as models: of those built, and of all if it registers one.

        What merges are only compared with, such as their base, is left out.
        """
        made = [*self.built, *self.cached] if REGISTER in self.tags else self.built
        merits = [key for key in made if records[key].name in NETWORKS and not records[key].config.get("reference")]
        return [*merits, *(key for key in self.built if records[key].name in PARTS)]

    def ended_before(self, moment: float) -> bool:
        """Whether it began before that time and is over."""
        return self.seconds is not None and self.started < moment

    @property
    def status(self) -> str:
        """MLflow's word for what became of the run."""
        if self.seconds is None:
            return "RUNNING"
        return "KILLED" if self.was_killed else "FAILED" if self.failures else "FINISHED"

    @property
    def key(self) -> str:
        """Name of the run, unique under its root: the experiment, when it started, in UTC, and random letters.

        It is the run's identity in MLflow, so it must be the same wherever the record is read. The time alone is not
        enough: two drivers may begin in one millisecond.
        """
        stamp = datetime.fromtimestamp(self.started, UTC).strftime("%Y%m%d-%H%M%S-%f")[:-3]
        name = f"{re.sub(r'[^A-Za-z0-9_.]+', '_', self.experiment)}-{stamp}"
        return f"{name}-{self.nonce}" if self.nonce else name

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
        storage_of(root).write(path, sealed(self))
        return path


def read_runs(root: Path) -> list[RunRecord]:
    """The records of all runs under `root` that can be read, oldest first; see `damaged_runs` for the others."""
    return sorted(filter(None, map(_read, _files(root))), key=lambda run: run.started)


def damaged_runs(root: Path) -> list[Path]:
    """The files under `root` that should be records of runs and cannot be read."""
    return [path for path in _files(root) if _read(path) is None]


def bury_dead(root: Path) -> list[RunRecord]:
    """Mark the runs under `root` as killed whose driver died, as of its last sign of life.

    Of this machine that is known; of another one whose driver no longer touches its record it is assumed.
    """
    going = [run for run in read_runs(root) if run.seconds is None and run.driver]
    dead = [run for run in going if run.driver and (run.driver.is_dead or _is_silent(run, run.driver, root))]
    buried = [run.killed(max(0.0, run.path(root).stat().st_mtime - run.started)) for run in dead]
    for run in buried:
        run.write(root)
    return buried


def _is_silent(run: RunRecord, driver: Process, root: Path) -> bool:
    """Whether the driver, on another machine, has not touched the record for long, by the clock of the file system."""
    if not run.beats or driver.host == socket.gethostname() or storage_of(root).address is not None:
        return False
    with tempfile.NamedTemporaryFile(dir=root / FOLDER, prefix=".now-") as now:
        return os.stat(now.name).st_mtime - run.path(root).stat().st_mtime > SILENCE


def starting(root: Path) -> AbstractContextManager[None]:
    """The lock of a run that begins; who removes steps has it too, and sees every run that may need them."""
    return storage_of(root).alone("starting")


def _files(root: Path) -> list[Path]:
    storage_of(root).refresh(FOLDER)
    return sorted((root / FOLDER).glob("*.json"))


def _read(path: Path) -> RunRecord | None:
    try:
        return RunRecord.model_validate(unsealed(path.read_bytes()))
    except (ValueError, OSError):
        return None


def _last_line(error: BaseException) -> str:
    """What the error says in the end, where a worker's traceback has its message; its kind if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
