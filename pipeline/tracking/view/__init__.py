"""What MLflow shows of a step's record and of a run's, as plain values."""

from amalgam.pipeline.tracking.view.datasets import (
    DATA_FINGERPRINT,
    StagedRows,
    dataset,
    sources,
    staged_in,
    staged_rows,
)
from amalgam.pipeline.tracking.view.entries import (
    FINGERPRINT,
    LINKS_FILE,
    MOST_LINKS,
    RUN_KEY,
    experiment_note,
    experiment_tags,
    is_read_by_people,
    milliseconds,
    params,
    run_metrics,
    run_tags,
    step_metrics,
    step_tags,
)
from amalgam.pipeline.tracking.view.notes import NOTE_FILE, Link, run_note, step_note, within_limit

__all__ = [
    "DATA_FINGERPRINT",
    "FINGERPRINT",
    "LINKS_FILE",
    "MOST_LINKS",
    "NOTE_FILE",
    "RUN_KEY",
    "Link",
    "StagedRows",
    "dataset",
    "experiment_note",
    "experiment_tags",
    "is_read_by_people",
    "milliseconds",
    "params",
    "run_metrics",
    "run_note",
    "run_tags",
    "sources",
    "staged_in",
    "staged_rows",
    "step_metrics",
    "step_note",
    "step_tags",
    "within_limit",
]
