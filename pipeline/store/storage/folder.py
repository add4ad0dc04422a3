"""Results on a file system that renames whole folders and locks files: a disk of this machine, or NFS."""

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from amalgam.pipeline.store.artifact import (
    SET_ASIDE,
    Damage,
    Record,
    Survey,
    check_writable,
    damage_of,
    finished,
    publish,
    read_record,
    set_aside,
    survey,
    verify,
    written_whole,
)

TRASH = ".trash"


@dataclass(frozen=True)
class Folder:
    """A root. A step is named by its key, the name of its folder there."""

    root: Path
    """Where steps are built and read on this machine."""

    @property
    def address(self) -> str | None:
        """Where the results lie, if not in `root` alone."""
        return None

    def local(self, key: str) -> Path:
        """The folder of a finished step on this machine. Raises ValueError if it cannot be brought here whole."""
        return self.root / key

    def has(self, key: str) -> bool:
        """Whether something lies in the place of a step, finished or not."""
        return (self.root / key).exists()

    def names(self) -> list[str]:
        """Names in the root that may be those of steps."""
        return [path.name for path in self.root.glob("*-*")]

    def record(self, key: str) -> Record:
        """The record of a step, its files not looked at. Raises ValueError if it is absent or damaged."""
        return read_record(self.root / key)

    def finished(self, keys: Iterable[str]) -> dict[str, Record]:
        """The records of those steps among `keys` that are finished."""
        return {key: record for key in keys if (record := finished(self.root / key))}

    def damage_of(self, key: str) -> Damage | None:
        """What is wrong with a step, every byte of it compared; None if it is whole."""
        return damage_of(self.root / key)

    def set_aside(self, key: str) -> str | None:
        """Move what lies in the place of a step out of the way; where it lies now, None if it was gone already."""
        aside = set_aside(self.root / key)
        return str(aside) if aside else None

    @contextmanager
    def alone(self, key: str) -> Iterator[None]:
        """Be the only one who builds a step; the kernel frees the lock of a builder that dies.

        The file stays: to remove it would let one builder lock the old file and another the new one. It lies apart
        from what builders remove, since NFS keeps a removed file, under another name, as long as it is open.
        """
        lock = self.root / ".locks" / key
        held = FileLock(lock, fallback_to_soft=False)  # flock; a soft lock outlives its builder
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            held.acquire()
        except (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
            raise ValueError(f"{lock} cannot be locked ({error.strerror}): remove what is in its way") from error
        try:
            yield
        finally:
            held.release()

    def publish(self, out: Path, key: str) -> None:
        """Make a folder with a record the finished step; what lies there, and is no finished step, is set aside."""
        if self.has(key) and not self.finished([key]):
            self.set_aside(key)
        try:
            publish(out, self.root / key)
        except OSError:
            if not self.finished([key]):  # another driver was first, on a file system without locks
                raise

    def survey(self, name: str | None = None) -> Survey:
        """All steps, of one kind if `name` is given; a damaged one hides no other."""
        return survey(self.root, name)

    def verify(self) -> tuple[int, list[Damage]]:
        """How many steps there are, and the damaged ones among them; every byte is read."""
        return verify(self.root)

    def check_writable(self) -> None:
        """Raise ValueError, in one sentence, if nothing can be written."""
        check_writable(self.root)

    def write(self, path: Path, text: str) -> None:
        """Write a small file under `root`, such as the record of a run, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as partial:
            partial.write_text(text)

    def keep(self, folder: Path) -> None:
        """Keep small files in a folder under `root`, such as the page of a night, where the results lie."""

    def forget(self, path: Path) -> None:
        """Remove a small file."""
        path.unlink(missing_ok=True)

    def refresh(self, folder: str) -> None:
        """Bring the small files in a folder of the root, such as the records of runs, to this machine."""

    def size(self, path: Path) -> int:
        """Bytes of a file, or of all files in a folder, under `root`."""
        return size_of(path)

    def discard(self, paths: Iterable[Path]) -> None:
        """Remove files and folders under `root`, each at once for whoever looks on; `purge` frees their room."""
        away = self.root / TRASH / uuid.uuid4().hex
        away.mkdir(parents=True)
        for place, path in enumerate(paths):
            path.rename(away / str(place))

    def purge(self) -> None:
        """Free the room of what was discarded."""
        shutil.rmtree(self.root / TRASH, ignore_errors=True)

    def aside(self) -> dict[Path, float]:
        """Damaged steps that were set aside, and when, as Unix time in seconds."""
        return {path: newest(path) for path in (self.root / SET_ASIDE).glob("*")}


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; one with several names, as in MLflow's folder, counts in shares."""
    files = [Path(place, name) for place, _, names in os.walk(path) for name in names] if path.is_dir() else [path]
    return sum(facts.st_size // facts.st_nlink for facts in map(os.lstat, files))


def newest(path: Path) -> float:
    """When a file, or any folder under a folder, was last changed, as Unix time in seconds."""
    return max((Path(place).stat().st_mtime for place, _, _ in os.walk(path)), default=path.stat().st_mtime)
