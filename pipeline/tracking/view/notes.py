"""Notes on the pages of runs, in Markdown: how a step was made, what a run found."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from amalgam.pipeline.store.artifact import Record
from amalgam.pipeline.tracking.run_record import RunRecord
from amalgam.pipeline.tracking.store import TRAINING_VIEW

NOTE_LIMIT = 7500  # MLflow refuses tags beyond 8000 characters, and a note is one.
NOTE_FILE = "note.md"
"""The whole of a note that is longer, as a file of its run."""


@dataclass(frozen=True)
class Link:
    """A step and the MLflow run that shows it."""

    title: str
    key: str
    experiment_id: str
    run_id: str

    def __str__(self) -> str:
        return f"[{self.title}](#/experiments/{self.experiment_id}/runs/{self.run_id}?{TRAINING_VIEW}) `{self.key}`"


def step_note(record: Record, folder: Path, inputs: Sequence[Link]) -> str:
    """How the step was made and from what, in Markdown."""
    made = f"Built by `{record.function}` in {record.seconds:.1f} s. Files: `{folder}`"
    host = [f"{name} {value}" for name, value in record.host.items()]
    return "\n".join([made, *_listing("Reads", inputs), *_listing("Built on", host)])


def run_note(run: RunRecord, run_id: str, built: Sequence[Link], cached: Sequence[Link], files: Sequence[Path]) -> str:
    """The result at a glance: the first table and picture among the files, then what was built and what was found."""
    tables = [file.read_text().strip() for file in files if file.suffix == ".md"]
    pictures = [file.name for file in files if file.suffix == ".png"]
    lines = [
        *(line for table in tables[:1] for line in table.splitlines()),
        *(f"\n![{name}](get-artifact?path={name}&run_uuid={run_id})" for name in pictures[:1]),
        *_listing("Failed", run.failures),
        *_listing(f"Built by this run: {len(built)} steps", built),
        *_listing(f"Found built: {len(cached)} steps, with the runs that show them", cached),
    ]
    return "\n".join(lines)


def within_limit(note: str) -> str:
    """The note as a tag can hold it: past the limit the rest is counted, and `NOTE_FILE` has it all."""
    kept, size, lines = list[str](), 0, note.splitlines()
    for line in lines:
        size += len(line) + 1
        if size > NOTE_LIMIT:
            return "\n".join([*kept, f"* ... and {len(lines) - len(kept)} lines more, in {NOTE_FILE}"])
        kept.append(line)
    return note


def _listing(heading: str, items: Sequence[object]) -> list[str]:
    return [f"\n**{heading}**", "", *(f"* {item}" for item in items)] if items else []
