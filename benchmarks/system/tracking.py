"""What a step costs beside its work: in MLflow against MLflow's own calls, on Ray against plain tasks, and when opened.

Steps that compute nothing are logged in a database on disk, then the same runs by MLflow's client alone, a call for
each part of a run. As many such steps are built on a local Ray cluster, and as many plain Ray tasks return a number.
A file is written with its digest by one process and opened by another.
"""

import os
import tempfile
import time
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

from amalgam.pipeline.engine.execute import Event, Local, Ray, run
from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.store.artifact import digest_of, file_facts
from amalgam.pipeline.tracking.run_record import RunRecord
from amalgam.pipeline.tracking.store import SETTINGS, store_of
from benchmarks.measure import Measure, report, seconds

NOTHING = "benchmarks.system.durability:nothing"
MEGABYTES = 200


def measure(steps: int = 500) -> list[Measure]:
    """Milliseconds a step, ratios and shares."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        return [*_mlflow(root / "mlflow", steps), *_ray(root / "ray", steps), *_opened(root / "opened")]


def _mlflow(root: Path, count: int) -> list[Measure]:
    from amalgam.pipeline.tracking.sync import Tracker  # here, not above: it imports mlflow

    targets, events = _targets(count), list[Event]()
    begun = RunRecord.begun("nothing", {}, targets)
    run(targets, root, Local(), events.append)
    record, store = reduce(RunRecord.after, events, begun).ended(), store_of(root)
    Tracker(root, store).track(begun.ended().model_copy(update={"started": begun.started - 1}))  # makes the database
    ours, processor = _both(lambda: Tracker(root, store).track(record))
    theirs, their_processor = _both(lambda: _plainly(root, targets))
    return [
        Measure("a step logged", 1000 * ours / count, "ms", at_most=10),
        Measure("a step logged, processor time", 1000 * processor / count, "ms"),
        Measure("a step logged by MLflow's client alone", 1000 * theirs / count, "ms"),
        Measure("the same, processor time", 1000 * their_processor / count, "ms"),
        Measure("ours over MLflow's client alone", ours / theirs, "x", at_most=1),
    ]


def _plainly(root: Path, targets: list[Step]) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

    store = store_of(root)
    client = MlflowClient(store.uri)
    experiment = client.create_experiment("plain", store.artifacts)
    for step in targets:
        made, now = client.create_run(experiment, run_name=step.name), int(1000 * time.time())
        metrics = [Metric(name, 1.0, now, 0) for name in ("number", "usage/seconds", "usage/bytes")]
        client.log_batch(made.info.run_id, metrics, [Param("number", "1")], [RunTag("fingerprint", step.fingerprint)])
        for name in ("file", "step.json"):
            client.log_artifact(made.info.run_id, str(step.path(root) / name))
        client.set_terminated(made.info.run_id)


def _ray(root: Path, count: int) -> list[Measure]:
    import ray

    first, begun = list[float](), time.perf_counter()
    run(_targets(count), root, Ray("local"), lambda event: first.append(time.perf_counter() - begun))
    ours = first[-1] - first[0]
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    ray.init("local", include_dashboard=False, **quiet)
    task: Any = ray.remote(_number)
    ray.get(task.remote(0))
    plain = seconds(lambda: ray.get([task.remote(number) for number in range(count)]))
    ray.shutdown()
    return [
        Measure("first step on Ray, its start included", first[0], "s", at_most=5),
        Measure("a step on Ray beyond a plain task", 1000 * (ours - plain) / count, "ms", at_most=10),
    ]


def _number(number: int) -> int:
    return number


def _opened(folder: Path) -> list[Measure]:
    """In a process of its own that writes, and in this one, which opens."""
    import multiprocessing

    folder.mkdir()
    writer = multiprocessing.get_context("spawn").Process(target=_write, args=(folder,))
    writer.start()
    writer.join()
    file = folder / "weights"
    reading = min(seconds(file.read_bytes) for _ in range(3))
    opening = seconds(lambda: digest_of(file))
    what = "digest of a file that another process here wrote, share of reading it"
    return [Measure(what, 100 * opening / reading, "%", at_most=3)]


def _write(folder: Path) -> None:
    (folder / "weights").write_bytes(os.urandom(2**20) * MEGABYTES)
    file_facts(folder)


def _targets(count: int) -> list[Step]:
    return [Step("nothing", NOTHING, {"number": number}) for number in range(count)]


def _both(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor time of a call, in seconds."""
    processor = time.process_time()
    return seconds(work), time.process_time() - processor


if __name__ == "__main__":
    os.environ |= SETTINGS
    report(__doc__, measure, tiny={"steps": 20})
