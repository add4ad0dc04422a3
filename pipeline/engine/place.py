"""Where a graph is built: the folders of its steps, who may build in them, and whether what lies there is whole."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from amalgam.pipeline.engine.step import Step, ancestors
from amalgam.pipeline.store.artifact import Record
from amalgam.pipeline.store.storage import Folder, root_path, storage_of


@dataclass(frozen=True)
class Place:
    """Where a graph is built and what its steps may read; never part of a step's identity."""

    root: Path
    """Folder of all artifacts; on a cluster, one that every machine sees."""
    data_root: Path | None = None
    """Folder of data sets that steps may read."""
    git_commit: str | None = None
    address: str | None = None
    """Of the object store whose cache `root` is, if it is one: on another machine the cache is another folder."""

    @property
    def storage(self) -> Folder:
        """What keeps the results."""
        return storage_of(self.root)

    def here(self) -> Self:
        """The same place as this machine sees it."""
        return replace(self, root=root_path(self.address)) if self.address else self

    def building(self, step: Step) -> Path:
        """The folder with the traces of a step that is not finished."""
        return self.root / ".building" / step.key


def found(targets: Sequence[Step], root: Path) -> dict[str, tuple[Step, Record]]:
    """All finished steps of the graph with their records, inputs first, by fingerprint."""
    steps = ancestors(targets)
    records = storage_of(root).finished([step.key for step in steps])
    return {step.fingerprint: (step, records[step.key]) for step in steps if step.key in records}


def missing(targets: Sequence[Step], root: Path, there: Mapping[str, object] | None = None) -> list[Step]:
    """The steps to build, inputs first; `there` is what is known to be `found`."""
    known = found(targets, root) if there is None else there
    open_steps = [step for step in targets if step.fingerprint not in known]
    wanted = set[str]()
    while open_steps:
        step = open_steps.pop()
        if step.fingerprint not in wanted:
            wanted.add(step.fingerprint)
            open_steps += [parent for parent in step.parents if parent.fingerprint not in known]
    return [step for step in ancestors(targets) if step.fingerprint in wanted]


class DamagedInput(ValueError):
    """Some inputs of a step were damaged or gone; they are out of the way, and must be built again."""

    def __init__(self, reasons: dict[str, str]) -> None:
        super().__init__(reasons)
        self.reasons = reasons
        """What was wrong with each, in one clause, by the fingerprint of its step."""

    def __str__(self) -> str:
        return "; ".join(self.reasons.values())


def require_whole(steps: Iterable[Step], place: Place) -> None:
    """Compare every byte of what these steps wrote with their records.

    Raises DamagedInput, with the damaged ones set aside, if any differs.
    """
    reasons = {step.fingerprint: reason for step in steps if (reason := set_aside_if_damaged(step, place))}
    if reasons:
        raise DamagedInput(reasons)


def set_aside_if_damaged(step: Step, place: Place) -> str | None:
    """Why the output of a step cannot be used, and where it lies now; None if it is whole.

    Another driver may find the same damage at the same moment, or may have mended it: the folder is looked at again,
    and moved, under the lock of its builders.
    """
    storage = place.storage
    if not storage.damage_of(step.key):
        return None
    with storage.alone(step.key):
        damage = storage.damage_of(step.key)
        if damage is None:
            return None
        aside = storage.set_aside(step.key)
    return f"{damage.reason}; set aside in {aside}" if aside else damage.reason
