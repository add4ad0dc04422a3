"""Four members trained by Ray on two cores, against the same four one after the other.

The members are those of `digits_partial_fusion`, trained for more epochs so that start-up does not decide. The clock
runs over the whole of `pipeline.engine.execute.run`: for Ray it includes starting Ray and its workers, and what each
worker imports; for the run without Ray, what this process imports. Each member has one thread in both.
"""

import tempfile
from pathlib import Path

from amalgam.pipeline.engine.execute import Local, Ray, Run, Runner, run
from amalgam.pipeline.engine.step import Step, ancestors
from amalgam.pipeline.experiments import EXPERIMENTS
from benchmarks.measure import Measure, report


def measure(epochs: int = 3000) -> list[Measure]:
    """Seconds one after the other and in parallel, and their ratio."""
    members = [step for step in ancestors([graph(epochs)]) if step.name == "member"]
    sequential, parallel = trained(members, Local()), trained(members, Ray())
    return [
        Measure("one after the other", sequential.seconds, "s"),
        Measure("by Ray on two cores, all start-up included", parallel.seconds, "s"),
        Measure("by Ray, from the first member's start to the last one's end", span(parallel), "s"),
        Measure("by Ray over one after the other", parallel.seconds / sequential.seconds, "x", at_most=0.6),
    ]


def graph(epochs: int) -> Step:
    """The experiment of the demo, one seed of it."""
    return EXPERIMENTS["digits_partial_fusion"](seeds=1, epochs=epochs)


def trained(members: list[Step], runner: Runner) -> Run:
    """The members, built anew."""
    with tempfile.TemporaryDirectory() as root:
        return run(members, Path(root), runner)


def span(outcome: Run) -> float:
    """Seconds in which any step was at work."""
    records = outcome.records.values()
    return max(r.started + r.seconds for r in records) - min(r.started for r in records)


if __name__ == "__main__":
    report(__doc__, measure, tiny={"epochs": 2})
