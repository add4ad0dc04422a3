"""Each step a Ray task: submitted with the tasks that it reads as arguments, and returned as it ends."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import ray

from amalgam.pipeline.console import say
from amalgam.pipeline.engine.build import build
from amalgam.pipeline.engine.place import Place
from amalgam.pipeline.engine.ray.cluster import GB, connected
from amalgam.pipeline.engine.ray.user_files import travel_by_value
from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.store.artifact import Record

MOST_RESTARTS = 2  # of Ray on this machine in one run

End: TypeAlias = Callable[[], Record | Exception]
"""Gives the record of a step that has ended, or what it failed of."""


def ended_tasks(address: str | None, steps: Sequence[Step], place: Place) -> Generator[tuple[Step, End], None, None]:
    """The steps, which come inputs first, as they end; those that still run when it is closed are cancelled.

    A step comes after every step that it reads. An own instance on this machine whose raylet dies is started again, for
    the steps that had not ended. Raises ValueError as `connected` does.
    """
    left, restarts = list(steps), 0 if ray.is_initialized() else MOST_RESTARTS
    while left:
        with connected(address, left):
            for step, end in _submitted(left, place):
                # Of a cluster the head is lost together with the raylet of this driver: a new job goes on from there.
                if restarts and isinstance(end(), ray.exceptions.LocalRayletDiedError):
                    break
                left.remove(step)
                yield step, end
        if left:
            restarts -= 1
            say("Ray's raylet on this machine died: Ray is started again for the steps that had not ended")


def _submitted(steps: Sequence[Step], place: Place) -> Iterator[tuple[Step, End]]:
    travel_by_value(steps)
    references: dict[str, Any] = {}
    for step in steps:
        upstream = [references[s.fingerprint] for s in step.parents if s.fingerprint in references]
        references[step.fingerprint] = _submit(step, place, upstream)
    try:
        yield from _as_they_end(steps, references)
    except BaseException:
        _cancel(list(references.values()))
        raise


def _task(step: Step, place: Place, *parents: Record) -> Record:
    """What a worker runs; the parents' records are there only to make Ray wait for them."""
    return build(step, place.here())


def _submit(step: Step, place: Place, upstream: Sequence[Any]) -> Any:
    together = step.resources.num_workers > 1  # then Ray Train reserves what each process needs
    options = ray.remote(_task).options(
        name=step.key,
        num_cpus=0 if together else step.resources.num_cpus,
        num_gpus=0 if together else step.resources.num_gpus,
        memory=None if together else step.resources.memory_gb * GB or None,
        max_retries=step.resources.max_retries,
        retry_exceptions=[OSError],
    )
    return options.remote(step, place, *upstream)


def _as_they_end(steps: Sequence[Step], references: Mapping[str, Any]) -> Iterator[tuple[Step, End]]:
    waiting = list(steps)
    while waiting:
        pending = [references[step.fingerprint] for step in waiting]
        ray.wait(pending, num_returns=1)
        # A failure is ready no later than its descendants' are: hence in the order of the steps.
        ready = set(ray.wait(pending, num_returns=len(pending), timeout=0)[0])
        for step in [step for step in waiting if references[step.fingerprint] in ready]:
            waiting.remove(step)
            yield step, partial(_end, references[step.fingerprint])


def _cancel(references: list[Any]) -> None:
    # Only what still runs: Ray aborts this process when a task that has just ended is cancelled by force.
    for reference in ray.wait(references, num_returns=len(references), timeout=0)[1]:
        ray.cancel(reference, force=True)


def _end(reference: Any) -> Record | Exception:
    try:
        record: Record = ray.get(reference)
        return record
    except ray.exceptions.RayTaskError as error:
        # What a user can mend needs its sentence; anything else the worker's traceback, which Ray's error carries.
        cause = error.cause if isinstance(error.cause, ValueError) else error
        return cause.with_traceback(None)
    except ray.exceptions.RayError as error:
        return error
