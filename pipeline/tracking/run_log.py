"""Keep the record of a run while it goes on, and show it in MLflow now and then.

The record is written when the run begins and after every step, so a driver that is killed leaves one that
`amalgam sync` logs. MLflow looks at it from a thread of its own, between two steps and not often: neither a slow server
nor one that is away costs the run any time.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from amalgam.pipeline.console import say
from amalgam.pipeline.engine.execute import Event, StepsFailed
from amalgam.pipeline.engine.host import ENDING
from amalgam.pipeline.store.storage import storage_of
from amalgam.pipeline.tracking.run_record import BEAT, RunRecord, bury_dead, starting
from amalgam.pipeline.tracking.store import Store

if TYPE_CHECKING:
    from amalgam.pipeline.tracking.sync import Tracked, Tracker

LOG = logging.getLogger(__name__)
EVERY = 30.0  # Seconds between two looks; shorter runs do without mlflow, whose import takes seconds, until they end.


@contextmanager
def logged(run: RunRecord, root: Path, store: Store, every: float = EVERY) -> Iterator["RunLog"]:
    """The log of a run that just begins, which hears its events; when the block ends, one line says how to see the run.

    However the block ends, the record says so; only a run that is refused before any step is tried leaves none.
    """
    log = RunLog(run, root, store, every, bury_dead(root))
    with starting(root):
        run.write(root)
    try:
        with ended_by_signals(), beating(run, root):
            yield log
    except StepsFailed:
        log.end()
        raise
    except BaseException as error:
        if isinstance(error, ValueError) and not (log.run.built or log.run.failures):
            storage_of(root).forget(run.path(root))
        else:
            log.end(error)
        raise
    log.end()


@contextmanager
def beating(run: RunRecord, root: Path) -> Iterator[None]:
    """Touch the record of a run in a folder again and again, so that other machines see that its driver is alive."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT):
            try:
                os.utime(run.path(root))
            except OSError as error:  # For long, and other machines take this driver for dead.
                LOG.warning("the record of run %s is not touched: %s", run.key, error)

    if storage_of(root).address is None:
        threading.Thread(target=beat, daemon=True, name="heartbeat").start()
    try:
        yield
    finally:
        ended.set()


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let a signal that ends programs raise SystemExit in the block, so that what is to be kept is kept."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, leave) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class RunLog:
    """The record of a run that goes on, and the thread that shows it."""

    def __init__(
        self, run: RunRecord, root: Path, store: Store, every: float, buried: Sequence[RunRecord] = ()
    ) -> None:
        self.run, self._root, self._store, self._every, self._buried = run, root, store, every, buried
        self._begun = time.monotonic()
        self._next_look = self._begun + every
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mlflow")
        self._look: Future[Tracked] | None = None

    def hear(self, event: Event) -> None:
        """Keep what became of a step; what was found built is kept with the next step that was not."""
        self.run = self.run.after(event)
        if event.kind == "cached":
            return
        with suppress(OSError):  # The record is written again after the next step: the run must not fail for it.
            self.run.write(self._root)
        if time.monotonic() >= self._next_look and (self._look is None or self._look.done()):
            self._next_look = time.monotonic() + self._every
            self._look = self._thread.submit(self._tracker.track, self.run)

    def tag(self, tags: Mapping[str, str]) -> None:
        """Say more of the run, such as the verdict of a night."""
        self.run = self.run.model_copy(update={"tags": self.run.tags | dict(tags)})

    def end(self, error: BaseException | None = None) -> None:
        """Keep the whole record, show it, and say where; `error` is what broke the run off."""
        seconds = time.monotonic() - self._begun
        self.run = self.run.killed(seconds) if isinstance(error, SystemExit) else self.run.ended(error, seconds)
        try:
            self.run.write(self._root)
        except OSError as unwritable:
            say(f"the record of this run cannot be kept: {unwritable}")
        self._thread.shutdown()
        try:
            for one in self._buried:
                self._tracker.track(one)
            say(self._tracker.track(self.run).line)
        except Exception as problem:  # of importing mlflow: the result is there and must be printed nevertheless
            say(f"MLflow does not work here ({type(problem).__name__}: {problem}); `amalgam sync` logs the run later")

    @cached_property
    def _tracker(self) -> "Tracker":
        # Here, not above: a short run needs no mlflow before its end. And never on the thread: a step that begins
        # meanwhile would meet half-imported modules.
        from amalgam.pipeline.tracking.sync import Tracker

        return Tracker(self._root, self._store)
