"""Who builds a step, where no file can be locked: an object that its owner rewrites while it is alive.

Nobody's clock is compared with another's: whoever waits measures by its own clock how long the object stays as it is.
Of two that take a free lease at one moment one gets it, where the store can write only what is not there, as S3 can.
Elsewhere both may get it. That costs work, never a result: both write the same files, and the record written last
decides.
"""

import logging
import os
import re
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
LEASE_SECONDS = 60.0  # after which a lease that nobody renews has expired; AMALGAM_LEASE_SECONDS sets another


class Objects(Protocol):
    """A store of objects by name."""

    def read(self, name: str) -> bytes | None:
        """The bytes of an object; None if there is none."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Make an object, in place of an earlier one."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """Make an object, if the store can tell only where there is none; whether it was made."""
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


def lease_seconds() -> float:
    """After how long a lease that nobody renews has expired. Raises ValueError if what the user set is no time."""
    text = os.environ.get("AMALGAM_LEASE_SECONDS") or str(LEASE_SECONDS)
    if not re.fullmatch(r"\d+(\.\d+)?", text) or not float(text):
        raise ValueError(f"AMALGAM_LEASE_SECONDS must be a positive number of seconds, got {text!r}")
    return float(text)


@contextmanager
def leased(objects: Objects, name: str, seconds: float) -> Iterator[None]:
    """Hold the lease of that name; it is taken from who is dead, or silent for so many seconds."""
    mine = Lease(owner=Process.this(), id=uuid.uuid4().hex)
    while True:
        _wait_until_free(objects, name, seconds)
        if objects.create(name, mine.model_dump_json().encode()):
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
    """What lies there when it is free, of a dead or silent owner, is removed."""
    seen, since = None, time.monotonic()
    while (data := objects.read(name)) is not None:
        lease = _parsed(data, name)
        if lease is None or lease.owner.is_dead or (lease == seen and time.monotonic() - since > seconds):
            objects.delete(name)
            return
        if lease != seen:
            seen, since = lease, time.monotonic()
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


def _parsed(data: bytes, name: str) -> Lease | None:
    try:
        return Lease.model_validate_json(data)
    except ValidationError:
        LOG.warning("the lease %s is damaged: it counts as free", name)
        return None


def _is(objects: Objects, name: str, mine: Lease) -> bool:
    data = objects.read(name)
    lease = None if data is None else _parsed(data, name)
    return lease is not None and lease.id == mine.id
