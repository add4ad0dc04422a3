"""What it costs that nothing is lost: flushing, digests, and showing steps in MLflow.

`digits_partial_fusion` is run once; then every file that it wrote is flushed and compared with its digest again, and
the seconds of that are given as a share of those that its steps took. Steps that compute nothing show what a step costs
besides its work, each with its folder, record, flushes and locks; a run of them is then logged in a new database.
"""

import os
import tempfile
import time
from collections.abc import Mapping
from functools import reduce
from pathlib import Path

from amalgam.pipeline.engine.execute import Event, Local, run
from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.store.artifact import damage_of, digest_of, flush, read_records
from amalgam.pipeline.tracking.run_record import RunRecord
from amalgam.pipeline.tracking.store import store_of
from benchmarks.measure import Measure, report, seconds

EXPERIMENT = "digits_partial_fusion"
MEGABYTES = 200


def measure(steps: int = 500, flags: tuple[str, ...] = ()) -> list[Measure]:
    """Shares and milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        return [*_share(Path(folder, "share"), flags), *_digests(Path(folder)), *_steps(Path(folder, "steps"), steps)]


def _share(root: Path, flags: tuple[str, ...]) -> list[Measure]:
    """Flushes and digests of an experiment, beside its work."""
    from amalgam.pipeline.experiments import EXPERIMENTS  # here, not above: steps alone need none

    arguments = {"seeds": 1, "members": 2, "epochs": 1, "alphas": (0.0, 1.0)} if flags else {}
    run([EXPERIMENTS[EXPERIMENT](**arguments)], root, Local())
    records = read_records(root)
    for record in records:  # as after being written: not yet on the disk
        for name in record.files:
            os.utime(root / record.key / name)

    def flush_all() -> None:
        for record in records:
            flush(root / record.key)

    flushing = seconds(flush_all)
    comparing = seconds(lambda: [damage_of(root / record.key) for record in records])
    work = sum(record.seconds for record in records)
    return [
        Measure(
            "flushing and digests, share of the steps' work", 100 * (flushing + 2 * comparing) / work, "%", at_most=3
        ),
        Measure("flushing a step", 1000 * flushing / len(records), "ms", at_most=5),
    ]


def _digests(folder: Path) -> list[Measure]:
    """The digest of a file that was opened before, as a share of reading it."""
    file = folder / "weights"
    file.write_bytes(os.urandom(2**20) * MEGABYTES)
    os.utime(file, (1, 1))
    time.sleep(2.1)  # until the file's identity is trusted
    first, again, reading = seconds(lambda: digest_of(file)), seconds(lambda: digest_of(file)), seconds(file.read_bytes)
    return [
        Measure("digest of a file opened before, share of reading it", 100 * again / reading, "%", at_most=3),
        Measure("digest of a file opened for the first time, share of reading it", 100 * first / reading, "%"),
    ]


def nothing(config: Mapping[str, int], inputs: Mapping[str, Path], work: Workspace) -> dict[str, float]:
    """A step that computes nothing."""
    (work.out / "file").write_text("content")
    return {"number": config["number"]}


def _steps(root: Path, count: int) -> list[Measure]:
    """Steps that compute nothing: built, logged, found built."""
    from amalgam.pipeline.tracking.sync import Tracker  # here, not above: it imports mlflow

    targets, events = [Step("nothing", nothing, {"number": number}) for number in range(count)], list[Event]()
    begun = RunRecord.begun("nothing", {}, targets)
    built = seconds(lambda: run(targets, root, Local(), events.append))
    record = reduce(RunRecord.after, events, begun).ended()
    record.write(root)
    store = store_of(root)
    Tracker(root, store).track(begun.ended().model_copy(update={"started": begun.started - 1}))  # makes the database
    logged = seconds(lambda: Tracker(root, store).track(record))
    found = list[Event]()
    again = RunRecord.begun("nothing", {}, targets)
    finding = seconds(lambda: run(targets, root, Local(), found.append))
    cached = reduce(RunRecord.after, found, again).ended()
    linking = seconds(lambda: Tracker(root, store).track(cached))
    return [
        Measure("a step that computes nothing, built in this process", 1000 * built / count, "ms", at_most=10),
        Measure("a step logged in MLflow", 1000 * logged / count, "ms", at_most=10),
        Measure(f"{count} cached steps found and logged, our own time", finding + linking, "s", at_most=2),
    ]


if __name__ == "__main__":
    report(__doc__, measure, tiny={"steps": 20, "flags": ("tiny",)})
