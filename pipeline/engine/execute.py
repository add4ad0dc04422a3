"""Build what a graph of steps still lacks, in this process or on Ray; gather all outcomes, then complain.

A finished target is never looked behind: its ancestors may be gone.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from amalgam.pipeline.engine.build import build, resolve
from amalgam.pipeline.engine.data_digests import check_data
from amalgam.pipeline.engine.host import source_commit
from amalgam.pipeline.engine.place import DamagedInput, Place, found, missing, set_aside_if_damaged
from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.store.artifact import Record
from amalgam.pipeline.store.storage import root_path, storage_of

MOST_ROUNDS = 4  # A disk that damages what was just written will not be mended by writing again.


@dataclass(frozen=True)
class Event:
    """What became of one step of a run; every step that a run looks at ends with one, and may be damaged before."""

    kind: Literal["cached", "built", "failed", "skipped", "damaged"]
    step: Step
    record: Record | None = None
    error: Exception | None = None
    note: str = ""
    """What was damaged, and where it lies now."""


@dataclass(frozen=True)
class Run:
    """The outcome of a run: the records of the steps it looked at, and which of them it built or found."""

    targets: tuple[Step, ...]
    records: Mapping[str, Record]
    """By fingerprint."""
    built: tuple[str, ...]
    cached: tuple[str, ...]
    started: float
    seconds: float


class StepsFailed(ExceptionGroup):
    """One or more steps failed; `run` has what was finished nevertheless."""

    run: Run


class Runner(Protocol):
    """Builds steps that come inputs first, with one event for each; a failure costs only its descendants."""

    def __call__(self, steps: Sequence[Step], place: Place) -> Iterator[Event]: ...


@dataclass(frozen=True)
class Local:
    """One step after the other in this process."""

    def __call__(self, steps: Sequence[Step], place: Place) -> Iterator[Event]:
        lost: set[str] = set()
        for step in steps:
            event = _skipped(step, lost) or self._attempt(step, place)
            if event.kind != "built":
                lost.add(step.fingerprint)
            yield event

    def _attempt(self, step: Step, place: Place) -> Event:
        for retries_left in range(step.resources.max_retries, -1, -1):
            try:
                return Event("built", step, record=build(step, place))
            except OSError as error:
                if not retries_left:
                    return Event("failed", step, error=error)
            except Exception as error:
                return Event("failed", step, error=error)
        raise AssertionError("the last attempt returns")


@dataclass(frozen=True)
class Ray:
    """Each step a Ray task; independent ones run at once, as far as CPUs and GPUs reach."""

    address: str | None = None
    """A cluster's address; None: RAY_ADDRESS, else an own instance on this machine."""

    def __call__(self, steps: Sequence[Step], place: Place) -> Iterator[Event]:
        from amalgam.pipeline.engine.ray.tasks import ended_tasks  # here, not above: it imports ray

        lost: set[str] = set()
        with closing(ended_tasks(self.address, steps, place)) as ended:
            for step, end in ended:
                event = _skipped(step, lost) or _event(step, end())
                if event.kind != "built":
                    lost.add(step.fingerprint)
                yield event


def run(
    targets: Sequence[Step],
    root: Path,
    runner: Runner | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
    data_root: Path | None = None,
) -> Run:
    """Build the targets under `root` and return their records and those of all steps looked at.

    Raises ValueError before anything starts if a step's own check or the root refuses, and StepsFailed, an
    ExceptionGroup, at the end if any step failed.
    """
    started, clock = time.time(), time.monotonic()
    root = root_path(root).absolute()
    storage = storage_of(root)
    storage.check_writable()
    place = Place(root, data_root and data_root.absolute(), source_commit(), storage.address)
    events = list[Event]()

    def tell(event: Event) -> None:
        events.append(event)
        on_event(event)

    _set_damaged_aside(targets, place, tell)
    there = found(targets, root)
    steps = missing(targets, root, there)
    check(steps, place)
    _require_shared_folder(steps, place)
    for step, record in there.values():
        tell(Event("cached", step, record=record))
    for rounds_left in range(MOST_ROUNDS - 1, -1, -1):
        lost = _round(steps, place, runner or Ray(), tell, may_put_off=rounds_left > 0) if steps else None
        if lost is None:
            break
        steps = [step for step in missing(targets, root) if step.fingerprint not in lost]
        check(steps, place)
    return _outcome(tuple(targets), events, started, time.monotonic() - clock)


def _set_damaged_aside(targets: Sequence[Step], place: Place, tell: Callable[[Event], None]) -> None:
    """Clear the places of the steps to build, and those of targets that were built and are no longer whole."""
    for step in {step.fingerprint: step for step in [*missing(targets, place.root), *targets]}.values():
        if place.storage.has(step.key) and (note := set_aside_if_damaged(step, place)):
            tell(Event("damaged", step, note=note))


def _round(
    steps: Sequence[Step], place: Place, runner: Runner, tell: Callable[[Event], None], may_put_off: bool
) -> set[str] | None:
    """Try every step once. Where inputs were damaged, those that failed for other reasons; None if all is reported.

    A step with damaged inputs has not failed, and what waits for it is not skipped: both are tried again.
    """
    lost, put_off = set[str](), set[str]()
    parents = {parent.fingerprint: parent for step in steps for parent in step.parents}
    for event in runner(steps, place):
        waits_for = {parent.fingerprint for parent in event.step.parents}
        if may_put_off and isinstance(event.error, DamagedInput):
            put_off.add(event.step.fingerprint)
            for fingerprint, note in event.error.reasons.items():
                tell(Event("damaged", parents[fingerprint], note=note))
        elif may_put_off and event.kind == "skipped" and not waits_for & lost:
            put_off.add(event.step.fingerprint)
        else:
            if event.kind != "built":
                lost.add(event.step.fingerprint)
            tell(event)
    return lost if put_off else None


def _require_shared_folder(steps: Sequence[Step], place: Place) -> None:
    """Raise ValueError if processes that train together would have no folder to meet in."""
    for step in steps:
        if place.address and step.resources.num_workers > 1:
            raise ValueError(
                f"step {step.name!r} is to be trained by {step.resources.num_workers} processes, which need a folder "
                f"that all machines share: give --root a folder instead of {place.address}, or leave out --num-workers"
            )


def check(steps: Sequence[Step], place: Place) -> None:
    """Let every step's config be refused now, before hours of work; what is instant first."""
    for step in steps:
        _check_instantly(step, place.data_root)
    for step in steps:
        if step.slow_check:
            resolve(step.slow_check)(step.config, place.data_root)


def refusals(steps: Sequence[Step], data_root: Path | None) -> list[ValueError]:
    """What the instant checks of all steps say, each sentence once."""
    found: dict[str, ValueError] = {}
    for step in steps:
        try:
            _check_instantly(step, data_root)
        except ValueError as error:
            found.setdefault(str(error), error)
    return list(found.values())


def _check_instantly(step: Step, data_root: Path | None) -> None:
    """Raise ValueError unless the data sets that a step's config names are there, and its own check takes it."""
    check_data(step.config, data_root)
    if step.check:
        resolve(step.check)(step.config, data_root)


def _event(step: Step, end: Record | Exception) -> Event:
    return Event("failed", step, error=end) if isinstance(end, Exception) else Event("built", step, record=end)


def _skipped(step: Step, lost: set[str]) -> Event | None:
    return Event("skipped", step) if any(parent.fingerprint in lost for parent in step.parents) else None


def _outcome(targets: tuple[Step, ...], events: Sequence[Event], started: float, seconds: float) -> Run:
    records = {event.step.fingerprint: event.record for event in events if event.record}
    built = tuple(event.step.fingerprint for event in events if event.kind == "built")
    cached = tuple(e.step.fingerprint for e in events if e.kind == "cached" and e.step.fingerprint not in built)
    outcome = Run(targets, records, built, cached, started, seconds)
    errors = [event.error for event in events if event.error]
    for event in events:
        if event.error:
            event.error.add_note(f"step {event.step.key}")
    if errors:
        failure = StepsFailed(f"{len(errors)} of {len(events)} steps failed", errors)
        failure.run = outcome
        raise failure
    return outcome
