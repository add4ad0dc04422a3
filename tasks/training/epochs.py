"""The loop over epochs that every training shares: resume, log what was before, advance, log, save.

A run cut short and resumed is the run never interrupted, if `advance` draws what is random in epoch e from (seed, e)
alone, and reads of earlier epochs only what is in `state`.
"""

import copy
from collections.abc import Callable
from typing import Any, Protocol

Log = Callable[[dict[str, float], int], None]
"""Takes the metrics of an epoch and its number, from 1."""
State = dict[str, Any]
"""Tensors and plain values, loadable by torch.load(weights_only=True)."""
Save = Callable[[State], None]


class Diverged(ValueError):
    """A non-finite loss; other settings may avoid it, and what was reached before is worth keeping."""


class Run(Protocol):
    """A training run after `len(history)` epochs."""

    history: list[dict[str, float]]
    """The metrics of every finished epoch; part of `state`."""

    @property
    def is_finished(self) -> bool:
        """Whether no epoch is left."""

    def advance(self) -> None:
        """One epoch; appends its metrics to `history`."""

    def state(self) -> State:
        """All that the next epoch reads. It may share memory with the run."""

    def restore(self, state: State) -> None:
        """Continue as the run that gave `state`."""


def run_epochs(run: Run, *, log: Log, resume: State | None = None, save: Save | None = None) -> None:
    """Advance `run` to its end; after every epoch `log(metrics, epoch)`, then `save` a copy of its state.

    With a state to `resume`, the run goes on after the epoch of that state, and the epochs before it are logged again,
    so that a record is whole.
    """
    if resume is not None:
        run.restore(resume)
    for epoch, metrics in enumerate(run.history, start=1):
        log(metrics, epoch)
    while not run.is_finished:
        run.advance()
        log(run.history[-1], len(run.history))
        if save is not None:
            save(copy.deepcopy(run.state()))


def silent(metrics: dict[str, float], epoch: int) -> None:
    """Log nothing: of processes that train together, one log is enough."""
