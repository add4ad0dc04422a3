"""Who builds a step, where no file can be locked: an object that its owner rewrites while it is alive.

Nobody's clock is compared with another's: whoever waits measures by its own clock how long the object stays as it is.
Of two that take a free lease at one moment both may get it, as such stores have no common way to write only what is
not there. That costs work, never a result: both write the same files, and the record written last decides.
"""

import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from amalgam.pipeline.store.storage.process import Process

LOG = logging.getLogger(__name__)
SETTLE = 0.1  # seconds in which another's write, begun before ours, should have come
BEATS = 5  # how often a lease is rewritten in the time after which it has expired


class Objects(Protocol):
    """A store of objects by name."""

    def read(self, name: str) -> bytes | None:
        """The bytes of an object; None if there is none."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Make an object, in place of an earlier one."""
        ...

    def delete(self, name: str) -> None:
        """Remove an object, if it is there."""
        ...


class Lease(BaseModel):
    """What the object says."""

    model_config = ConfigDict(frozen=True)
    owner: Process
    id: str
    """Of this one time that the owner holds it."""
    beat: int = 0
    """How often it was rewritten."""


@contextmanager
def leased(objects: Objects, name: str, seconds: float) -> Iterator[None]:
    """Hold the lease of that name; it is taken from who is dead, or silent for so many seconds."""
    mine = Lease(owner=Process.this(), id=uuid.uuid4().hex)
    while True:
        _wait_until_free(objects, name, seconds)
        objects.write(name, mine.model_dump_json().encode())
        time.sleep(SETTLE)
        if _is(objects, name, mine):
            break
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(objects, name, mine, seconds / BEATS, ended), daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        if _is(objects, name, mine):
            objects.delete(name)


def _wait_until_free(objects: Objects, name: str, seconds: float) -> None:
    seen, since = None, time.monotonic()
    while (lease := _read(objects, name)) and not lease.owner.is_dead:
        if lease != seen:
            seen, since = lease, time.monotonic()
        elif time.monotonic() - since > seconds:
            return
        time.sleep(min(1.0, seconds / BEATS))


def _beat(objects: Objects, name: str, mine: Lease, every: float, ended: threading.Event) -> None:
    beat = 0
    while not ended.wait(every):
        beat += 1
        try:
            if not _is(objects, name, mine):
                return  # It expired, as this machine slept, and another has it: what both build is the same.
            objects.write(name, mine.model_copy(update={"beat": beat}).model_dump_json().encode())
        except OSError as error:  # The store is away for a moment; for longer, the step's own writes fail.
            LOG.warning("the lease %s is not renewed: %s", name, error)


def _read(objects: Objects, name: str) -> Lease | None:
    data = objects.read(name)
    try:
        return Lease.model_validate_json(data) if data else None
    except ValidationError:
        LOG.warning("the lease %s is damaged: it counts as free", name)
        return None


def _is(objects: Objects, name: str, mine: Lease) -> bool:
    lease = _read(objects, name)
    return lease is not None and lease.id == mine.id
