"""Which runs, steps and traces under a root nobody needs any more, and their removal.

Nights expire, other runs do not. A step goes when every run that links to it has expired: what a kept run, an alias, a
baseline or a running driver links to stays, with all that it was made of.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from amalgam.pipeline.store.artifact import Record
from amalgam.pipeline.store.artifact.integrity import KEY
from amalgam.pipeline.store.record_text import parents
from amalgam.pipeline.store.storage import newest, storage_of
from amalgam.pipeline.tracking.nights.record import FOLDER, Night, read_aliases, read_nights
from amalgam.pipeline.tracking.nights.schedules import FOLDER as SCHEDULES
from amalgam.pipeline.tracking.run_record import RunRecord, bury_dead, damaged_runs, read_runs, starting
from amalgam.tasks.scoring.nights import is_better_when_lower

BUILDING, LOCKS = ".building", ".locks"
DAY = 86400.0
UNLINKED = DAY  # seconds that a step stays to which no run ever linked: its driver may keep no record
OLD = 30 * DAY  # seconds that a damaged step and the log of a schedule stay, for those who want to know more


@dataclass(frozen=True)
class Expired:
    """What may go: nights with their pages, records of runs, and folders of steps or of their traces."""

    nights: tuple[Night, ...]
    runs: tuple[RunRecord, ...]
    steps: tuple[Path, ...]
    traces: tuple[Path, ...]
    """What dead builders left, and damaged steps that were set aside, and logs."""

    def folders(self, root: Path) -> dict[Path, str]:
        """All that is removed from disk, with what each is."""
        found = {night.folder(root): "night" for night in self.nights}
        found |= {run.path(root): "run" for run in self.runs}
        found |= {step: "step" for step in self.steps}
        return found | {trace: "trace" for trace in self.traces}


def expired(root: Path, keep_nights: int, keep_best: bool, also_kept: Iterable[str] = (), now: float = 0) -> Expired:
    """What nobody needs if each series keeps its last nights and, if requested, its best.

    `also_kept` are fingerprints of steps that something outside the root needs. `now` is Unix time, in seconds, taken
    from the clock without it. Raises ValueError if the record of a run cannot be read: nobody knows what it links to.
    """
    now = now or time.time()
    if damaged := damaged_runs(root):
        raise ValueError(f"{damaged[0]} cannot be read, so what its run links to is unknown: remove it first")
    runs, nights = {run.key: run for run in read_runs(root)}, _nights(root)
    kept_nights = [night for series in nights for night in _kept(series, keep_nights, keep_best)]
    named = {*read_aliases(root).values(), *(night.baseline for night in kept_nights)}
    kept_nights += [night for series in nights for night in series if night.run in named]
    kept = {night.run for night in kept_nights} | named
    gone = [night for series in nights for night in series if night.run not in kept]
    # A night that failed left a run without a verdict; it goes with the nights of its time.
    oldest = _oldest(kept_nights, runs)
    failed = [run for run in runs.values() if run.ended_before(oldest.get(run.tags.get("night", ""), 0.0))]
    leaving = {night.run for night in gone} | {run.key for run in failed if run.key not in kept}
    staying = [run for key, run in runs.items() if key not in leaving]
    records = {record.fingerprint: record for record in storage_of(root).survey().records}
    linked = _with_ancestors({key for run in staying for key in run.links} | set(also_kept), records)
    known = {key for run in runs.values() for key in run.links}
    steps = [
        root / record.key
        for key, record in records.items()
        if key not in linked and (key in known or record.started + record.seconds < now - UNLINKED)
    ]
    away = tuple(runs[key] for key in sorted(leaving & runs.keys()))
    return Expired(tuple(gone), away, tuple(sorted(steps)), tuple(_traces(root, linked, now)))


def remove(root: Path, keep_nights: int, keep_best: bool, also_kept: Iterable[str] = ()) -> dict[Path, int]:
    """Remove what has expired; the sizes in bytes of what was there.

    Meanwhile no driver begins: one that began before is seen, and one that begins later finds no half of a step.
    """
    bury_dead(root)
    storage = storage_of(root)
    with starting(root):
        gone = expired(root, keep_nights, keep_best, also_kept)
        sizes = {path: storage.size(path) for path in gone.folders(root)}
        storage.discard(sizes)
        for step in gone.steps:
            (root / LOCKS / step.name).unlink(missing_ok=True)
    storage.purge()
    return sizes


def _nights(root: Path) -> list[list[Night]]:
    storage_of(root).refresh(FOLDER)
    return [read_nights(root, path.name) for path in sorted((root / FOLDER).glob("*")) if path.is_dir()]


def _kept(series: Sequence[Night], keep_nights: int, keep_best: bool) -> list[Night]:
    kept = list(series[-keep_nights:])
    if keep_best and series:
        lead = next(iter(series[-1].metrics))
        sign = -1 if is_better_when_lower(lead) else 1
        kept.append(max((night for night in series if lead in night.metrics), key=lambda one: sign * one.metrics[lead]))
    return kept


def _oldest(nights: Iterable[Night], runs: Mapping[str, RunRecord]) -> dict[str, float]:
    """When the first kept night of each series began."""
    found: dict[str, float] = {}
    for night in nights:
        if night.run in runs:
            started = runs[night.run].started
            found[night.name] = min(started, found.get(night.name, started))
    return found


def _with_ancestors(fingerprints: Iterable[str], records: Mapping[str, Record]) -> set[str]:
    found, waiting = set[str](), list(fingerprints)
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            waiting += parents(records[key]) if key in records else []
    return found


def _traces(root: Path, linked: set[str], now: float) -> list[Path]:
    """Folders of builders that are long gone and that no kept run will go on with, and steps set aside long ago."""
    building = [
        path
        for path in (root / BUILDING).glob("*-*")
        if KEY.fullmatch(path.name) and path.name.rpartition("-")[2] not in linked and now - newest(path) > UNLINKED
    ]
    storage_of(root).refresh(SCHEDULES)
    logs = {path: newest(path) for one in (root / SCHEDULES).glob("*/") for path in _firings(one)}
    old = [path for path, when in (storage_of(root).aside() | logs).items() if now - when > OLD]
    return [*sorted(building), *sorted(old)]


def _firings(schedule: Path) -> list[Path]:
    """The records and logs of a schedule's firings without the newest, by which it is known what is due."""
    return sorted(schedule.glob("*"))[:-2]
