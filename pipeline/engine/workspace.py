"""What a step function may touch: its output, its scratch folder, its device, its curves."""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

NOTES = "notes.txt"  # beside the curves


@dataclass(frozen=True)
class Workspace:
    """What a step function may touch besides its config and inputs."""

    out: Path
    """Write the output here; it becomes the artifact."""
    scratch: Path
    """Resume checkpoints: kept when the step is retried, removed when it completes."""
    data_root: Path | None
    """Folder of data sets, if the user gave one."""
    device: str
    """`cuda` where the step requests a GPU, else `cpu`."""
    curves: Path
    """File that `log` appends to."""
    num_workers: int = 1
    """Processes that are to train together, through Ray Train."""
    gpus_each: float = 0
    """GPUs for each of them."""
    cpus_each: float = 1
    """CPU cores for each of them."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add one value to each named curve; the curves are kept in the artifact and shown in MLflow."""
        row = {
            "step": step,
            "time": time.time(),
            "metrics": {name: float(value) for name, value in metrics.items()},
        }
        with self.curves.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def note(self, sentence: str) -> None:
        """Keep a sentence in the step's record, shown when the step ends wherever it was built."""
        with self.curves.with_name(NOTES).open("a") as file:
            file.write(" ".join(sentence.split()) + "\n")


class _Notes(logging.Handler):
    """Keeps warnings in the step's record."""

    def __init__(self, work: Workspace) -> None:
        super().__init__(logging.WARNING)
        self.work = work

    def emit(self, record: logging.LogRecord) -> None:
        self.work.note(record.getMessage())


@contextmanager
def warnings_noted(work: Workspace) -> Iterator[None]:
    """Keep what `tasks` warn of inside the block as notes: they know no records."""
    logger, notes = logging.getLogger("amalgam.tasks"), _Notes(work)
    logger.addHandler(notes)
    try:
        yield
    finally:
        logger.removeHandler(notes)
