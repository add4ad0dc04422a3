"""Nights on disk: what each night of a name measured and of what, its verdict, and the runs that have an alias."""

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, RootModel

from amalgam.pipeline.console import say
from amalgam.pipeline.store.artifact import Record, sealed, unsealed
from amalgam.pipeline.store.storage import storage_of
from amalgam.pipeline.tracking.run_record import RunRecord, read_runs
from amalgam.tasks.user_names import unknown_name

FOLDER, ALIASES = ".nights", "aliases.json"
REGRESSION = 3  # exit status of a night that is one
Word = Literal["ok", "regression"]


class Night(BaseModel):
    """One night."""

    model_config = ConfigDict(frozen=True)
    name: str
    day: date
    number: int
    """How many of its day came before."""
    run: str
    """Key of its run."""
    baseline: str | None = None
    """Key of the run that it was compared with."""
    first_seed: int
    metrics: Annotated[dict[str, float], Field(min_length=1)]
    made_of: dict[str, str]
    """Digests of data, the commit of the code and versions of packages, by name."""
    verdict: Word
    findings: tuple[dict[str, Any], ...] = ()
    """What is to say of each metric."""

    @property
    def title(self) -> str:
        """Its day, and which of the day it is."""
        return f"{self.day:%Y-%m-%d}" + (f" ({self.number + 1})" if self.number else "")

    def folder(self, root: Path) -> Path:
        """Where its record and its page lie."""
        return nights_folder(root, self.name) / f"{self.day:%Y-%m-%d}-{self.number}"

    def write(self, root: Path) -> Self:
        """Keep the record, whole or not at all."""
        storage_of(root).write(self.folder(root) / "night.json", sealed(self))
        return self


def nights_folder(root: Path, name: str) -> Path:
    """Where the nights of a name lie."""
    return root / FOLDER / name


def read_nights(root: Path, name: str) -> list[Night]:
    """The nights of a name that can be read, oldest first."""
    found = []
    storage_of(root).refresh(FOLDER)
    for path in nights_folder(root, name).glob("*/night.json"):
        try:
            found.append(Night.model_validate(unsealed(path.read_bytes())))
        except (ValueError, OSError):
            say(f"{path} cannot be read: this night is left out of comparisons")
    return sorted(found, key=lambda night: (night.day, night.number))


def read_aliases(root: Path) -> dict[str, str]:
    """Keys of runs by alias. Raises ValueError, naming the file, if it is damaged."""
    path = root / FOLDER / ALIASES
    storage_of(root).refresh(FOLDER)
    try:
        return {str(alias): str(run) for alias, run in unsealed(path.read_bytes()).items()} if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): remove it and set its aliases again") from error


def set_alias(root: Path, alias: str, run: str) -> None:
    """Let an alias name a run, in place of the one it named."""
    aliases = RootModel[dict[str, str]](read_aliases(root) | {alias: run})
    storage_of(root).write(root / FOLDER / ALIASES, sealed(aliases))


def find_run(root: Path, name: str) -> RunRecord:
    """The run that an alias or the start of a key names. Raises ValueError, with near names, if there is not one."""
    aliases, runs = read_aliases(root), {run.key: run for run in read_runs(root)}
    wanted = aliases.get(name, name)
    alike = [run for key, run in runs.items() if key.startswith(wanted)]
    if len(alike) > 1 and wanted not in runs:
        raise ValueError(f"{name!r} is the start of {len(alike)} runs, {alike[0].key} among them: give more of it")
    if not alike:
        raise unknown_name("run or alias", name, [*aliases, *runs])
    return runs.get(wanted, alike[0])


def records_of(run: RunRecord, root: Path) -> list[Record]:
    """The records of a run's steps that are still there."""
    storage, wanted = storage_of(root), {*run.built, *run.cached}
    keys = [key for key in storage.names() if key.rpartition("-")[2] in wanted]
    return list(storage.finished(sorted(keys, key=lambda key: key.rpartition("-")[2])).values())


def metrics_of(run: RunRecord, root: Path) -> dict[str, float]:
    """What the targets of a run measured. Raises ValueError if none is there any more."""
    targets = [record for record in records_of(run, root) if record.fingerprint in run.targets]
    found = {name: value for record in targets for name, value in record.numbers.items()}
    if not found:
        raise ValueError(f"run {run.key} has no metrics any more: its report is not under {root}")
    return found
