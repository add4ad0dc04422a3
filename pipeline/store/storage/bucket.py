"""Results under a prefix of an object store, which has no rename of folders and no locks.

Files of a step are written first and its record last: a step is there exactly if its record can be read and its files
have the sizes that it names. Steps are built and read in a cache on each machine, where inputs are compared byte by
byte with their record as they arrive, once for all steps that read them.
"""

import os
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from amalgam.pipeline.store.artifact import KEY, RECORD, Damage, Record, Survey, damage_of, parsed_record
from amalgam.pipeline.store.storage.folder import Folder
from amalgam.pipeline.store.storage.lease import lease_seconds, leased
from amalgam.pipeline.store.storage.objects import ObjectFacts, PrefixObjects, each

LEASES, ASIDE, FETCHING, PROBE = ".leases", ".damaged", ".fetching", ".probe"
UNSETTLED = 60.0  # seconds in which a small file may change again within the second that stores tell its time to


@dataclass(frozen=True)
class Bucket(Folder):
    """A root in an object store; `root` is its cache on this machine."""

    place: str
    """The address, such as `s3://bucket/prefix`, without credentials."""

    @property
    def address(self) -> str:
        """Where the results lie."""
        return self.place

    @property
    def objects(self) -> PrefixObjects:
        """What lies there."""
        return PrefixObjects(self.place)

    def local(self, key: str) -> Path:
        """The folder of a finished step on this machine, brought here unless a whole copy is here already."""
        if damage := self.damage_of(key):
            raise ValueError(f"{damage}; `amalgam run` sets it aside and builds it again")
        return self.root / key

    def has(self, key: str) -> bool:
        """Whether there is a record: files without one are an upload that was broken off, and are written over."""
        return self.objects.read(f"{key}/{RECORD}") is not None

    def names(self) -> list[str]:
        """Keys of steps that have a record."""
        parts = (name.rpartition("/") for name in self.objects.sizes())
        return sorted(key for key, _, file in parts if file == RECORD and KEY.fullmatch(key))

    def record(self, key: str) -> Record:
        """The record of a step, its files not looked at. Raises ValueError if it is absent or damaged."""
        if record := _record(self.objects, key):
            return record
        raise ValueError(f"no finished step lies in {self.place}/{key} ({RECORD} is absent or damaged)")

    def finished(self, keys: Iterable[str]) -> dict[str, Record]:
        """The records of those steps among `keys` that are finished."""
        keys, objects = list(keys), self.objects

        def look(key: str) -> Record | None:
            record = _record(objects, key)
            return record if record and not _wrong_sizes(record, objects.sizes(key)) else None

        return {key: record for key, record in zip(keys, each(look, keys), strict=True) if record}

    def damage_of(self, key: str) -> Damage | None:
        """What is wrong with a step; if nothing, a whole copy lies in the cache."""
        text, here = self.objects.read(f"{key}/{RECORD}"), self.root / key
        if text is None:
            return Damage(f"{self.place}/{key}", f"it has no {RECORD}")
        with super().alone(f"fetch-{key}"):  # one download for all processes of this machine
            if _bytes(here / RECORD) == text and damage_of(here) is None:
                return None
            return self._fetch(key, here)

    def set_aside(self, key: str) -> str | None:
        """Rename the objects of a step, its record first."""
        aside = f"{ASIDE}/{key}-{time.time_ns()}"
        self.objects.move(key, aside, RECORD)
        return f"{self.place}/{aside}"

    @contextmanager
    def alone(self, key: str) -> Iterator[None]:
        """Be the only one who builds a step, on this machine by a lock and among machines by a lease."""
        with super().alone(key), leased(self.objects, f"{LEASES}/{key}", lease_seconds()):
            yield

    def publish(self, out: Path, key: str) -> None:
        """Write the objects of a step, its record last, and keep the folder in the cache."""
        names = [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()]
        self.objects.upload(out, key, [name for name in names if name != RECORD])
        self.objects.upload(out, key, [RECORD])
        _replace(out, self.root / key)

    def survey(self, name: str | None = None) -> Survey:
        """All steps, of one kind if `name` is given; a damaged one hides no other."""
        objects, sizes = self.objects, defaultdict[str, dict[str, int]](dict)
        for path, size in objects.sizes().items():
            key, _, file = path.partition("/")
            sizes[key][file] = size
        known = [key for key in sorted(sizes) if RECORD in sizes[key] and KEY.fullmatch(key)]
        keys = [key for key in known if name in (None, key.rpartition("-")[0])]
        records, damaged = list[Record](), list[Damage]()
        for key, record in zip(keys, each(lambda key: _record(objects, key), keys), strict=True):
            wrong = _wrong_sizes(record, sizes[key]) if record else f"its {RECORD} is damaged"
            if record and not wrong:
                records.append(record)
            else:
                damaged.append(Damage(f"{self.place}/{key}", wrong or ""))
        return Survey(tuple(sorted(records, key=lambda record: record.started)), tuple(damaged))

    def verify(self) -> tuple[int, list[Damage]]:
        """How many steps there are, and the damaged ones among them; every byte is downloaded."""
        keys = self.names()
        return len(keys), [damage for key in keys if (damage := self._fetch(key, None))]

    def check_writable(self) -> None:
        """Raise ValueError, in one sentence, if the cache or the store cannot be written."""
        super().check_writable()
        try:
            self.objects.write(PROBE, b"")
            self.objects.delete(PROBE)
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot write to {self.place}: {error}; see to its address and credentials") from error

    def write(self, path: Path, text: str) -> None:
        """Write a small file to the store and, for readers of this machine, to the cache."""
        self.objects.write(self._name(path), text.encode())  # first: `refresh` brings what is there
        super().write(path, text)

    def keep(self, folder: Path) -> None:
        """Write small files of the cache to the store."""
        self.objects.upload(folder, self._name(folder), [path.name for path in folder.iterdir() if path.is_file()])

    def forget(self, path: Path) -> None:
        """Remove a small file from both."""
        super().forget(path)
        self.objects.delete(self._name(path))

    def refresh(self, folder: str) -> None:
        """Bring the small files in a folder here, those that have changed; what another machine removed goes."""
        begun, here = time.time(), self.root / folder
        there = self.objects.facts(folder)
        changed = [name for name, facts in there.items() if not _is_copy(here / name, facts)]
        with self._incoming() as place:
            self.objects.download(folder, place, changed)
            for name in changed:
                (here / name).parent.mkdir(parents=True, exist_ok=True)
                if there[name].changed < begun - UNSETTLED:
                    os.utime(place / name, (there[name].changed, there[name].changed))
                (place / name).replace(here / name)
        for path in here.rglob("*.json"):
            if path.relative_to(here).as_posix() not in there and path.stat().st_mtime < begun - UNSETTLED:
                path.unlink(missing_ok=True)

    def size(self, path: Path) -> int:
        """Bytes of the objects of a step or of a small file."""
        name = self._name(path)
        return sum(self.objects.sizes(name).values()) or len(self.objects.read(name) or b"")

    def discard(self, paths: Iterable[Path]) -> None:
        """Remove these from the store, records before files, and from the cache."""
        paths, objects = list(paths), self.objects

        def remove(path: Path) -> None:
            name = self._name(path)
            for file in sorted(objects.sizes(name), key=lambda file: file != RECORD):
                objects.delete(f"{name}/{file}")
            objects.delete(name)

        each(remove, paths)
        super().discard(path for path in paths if path.exists())

    def aside(self) -> dict[Path, float]:
        """Damaged steps that were set aside, here and in the store, and when."""
        names = (name.partition("/")[0].rpartition("-") for name in self.objects.sizes(ASIDE))
        there = {self.root / ASIDE / "-".join((key, ns)): int(ns) / 1e9 for key, _, ns in names if ns.isdecimal()}
        return super().aside() | there

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    @contextmanager
    def _incoming(self) -> Iterator[Path]:
        (self.root / FETCHING).mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.root / FETCHING) as place:
            yield Path(place)

    def _fetch(self, key: str, destination: Path | None) -> Damage | None:
        """Download a step, compare every byte, and move it to `destination`, if it is whole."""
        with self._incoming() as place:
            folder = place / key
            self.objects.download(key, folder)
            if damage := damage_of(folder):
                return Damage(f"{self.place}/{key}", damage.reason)
            if destination:
                _replace(folder, destination)
        return None


def _record(objects: PrefixObjects, key: str) -> Record | None:
    text = objects.read(f"{key}/{RECORD}")
    try:
        record = parsed_record(text) if text is not None else None
    except ValueError:
        return None
    return record if record and record.key == key else None


def _wrong_sizes(record: Record, sizes: dict[str, int]) -> str | None:
    for name, facts in record.files.items():
        if sizes.get(name) != facts.bytes:
            return f"{name} has {sizes.get(name, 'no')} bytes instead of {facts.bytes}"
    return None


def _is_copy(path: Path, facts: ObjectFacts) -> bool:
    """Whether a file was brought from an object that has not changed since."""
    with suppress(OSError):
        here = path.stat()
        return (here.st_size, here.st_mtime) == (facts.size, facts.changed)
    return False


def _bytes(path: Path) -> bytes | None:
    with suppress(OSError):
        return path.read_bytes()
    return None


def _replace(folder: Path, destination: Path) -> None:
    shutil.rmtree(destination, ignore_errors=True)
    folder.rename(destination)
