"""Where a graph is built: the folders of its steps, who may build in them, and whether what lies there is whole."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from amalgam.pipeline.engine.step import Step, ancestors
from amalgam.pipeline.store.artifact import Record, damage_of, finished, set_aside


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

    def lock(self, step: Step) -> Path:
        """The file whose lock the builder of a step holds."""
        return self.root / ".locks" / step.key


def found(targets: Sequence[Step], root: Path) -> dict[str, tuple[Step, Record]]:
    """All finished steps of the graph with their records, inputs first, by fingerprint."""
    records = ((step, finished(step.path(root))) for step in ancestors(targets))
    return {step.fingerprint: (step, record) for step, record in records if record}


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


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Be the only one who holds this lock; the kernel frees that of a builder that dies.

    The file stays: to remove it would let one builder lock the old file and another the new one. It lies apart
    from what builders remove, since NFS keeps a removed file, under another name, as long as it is open.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock, fallback_to_soft=False):  # flock, or LockFileEx on Windows; a soft lock outlives its builder
        yield


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
    path = step.path(place.root)
    if not damage_of(path):
        return None
    with alone(place.lock(step)):
        damage = damage_of(path)
        if damage is None:
            return None
        aside = set_aside(path)
    return f"{damage.reason}; set aside in {aside}" if aside else damage.reason
