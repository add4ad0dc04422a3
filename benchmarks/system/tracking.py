"""What a step costs beside its work: in MLflow against MLflow's own calls, on Ray against plain tasks, and when opened.

Steps that compute nothing are logged in a database on disk, then the same runs by MLflow's client alone, a call for
each part of a run. As many such steps are built on a local Ray cluster, and as many plain Ray tasks return a number.
A step logs 100,000 points of 100 curves for a server that runs meanwhile, beside one that logs none. A run whose 300
steps are all built is run again and logged. A file is written with its digest by one process and opened by another.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial, reduce
from pathlib import Path
from typing import Any

from amalgam.pipeline.engine.execute import Event, Local, Ray, run
from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.store.artifact import digest_of, file_facts
from amalgam.pipeline.tracking.run_record import RunRecord
from amalgam.pipeline.tracking.store import SETTINGS, Store, store_of
from benchmarks.machine import free_port
from benchmarks.measure import Measure, report, seconds

CURVES, CACHED = 100, 300
EPOCH = 0.05  # seconds of an epoch that logs a point of every curve
NOTHING = "benchmarks.system.durability:nothing"
MEGABYTES = 200


def measure(steps: int = 500, epochs: int = 1000) -> list[Measure]:
    """Milliseconds a step, ratios and shares."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        found = [*_mlflow(root / "mlflow", steps), *_cached(root / "cached"), *_points(root / "points", epochs)]
        return [*found, *_ray(root / "ray", steps), *_opened(root / "opened")]


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


def _cached(root: Path) -> list[Measure]:
    from amalgam.pipeline.tracking.sync import Tracker  # here, not above: it imports mlflow

    targets, store = _targets(CACHED), store_of(root)

    def whole() -> None:
        events, begun = list[Event](), RunRecord.begun("nothing", {}, targets)
        run(targets, root, Local(), events.append)
        Tracker(root, store).track(reduce(RunRecord.after, events, begun).ended())

    whole()
    wall, processor = _both(whole)
    return [
        Measure(f"a run of {CACHED} built steps, imports left out", wall, "s", at_most=2),
        Measure("the same, processor time", processor, "s"),
    ]


def _points(root: Path, epochs: int) -> list[Measure]:
    from amalgam.pipeline.tracking.sync import Tracker  # here, not above: it imports mlflow

    address = f"http://127.0.0.1:{free_port()}"
    backend = [f"--backend-store-uri=sqlite:///{root}/server.db", f"--artifacts-destination={root}/artifacts"]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--port",
        address.rpartition(":")[2],
        "--workers",
        "1",
        *backend,
    ]
    root.mkdir()
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0)
    try:
        store = Store(address)
        while store.problem():
            time.sleep(0.5)
        seconds_of, spent = {}, 0.0
        for curves in (0, CURVES):
            target, events = Step("logs", f"{__name__}:logs", {"curves": curves, "epochs": epochs}), list[Event]()
            begun = RunRecord.begun("logs", {}, [target])
            seconds_of[curves] = run([target], root, Local(), events.append).records[target.fingerprint].seconds
            ended = reduce(RunRecord.after, events, begun).ended()
            spent = seconds(partial(Tracker(root, store).track, ended))
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
    added = 100 * (seconds_of[CURVES] / seconds_of[0] - 1)
    return [
        Measure(f"{CURVES * epochs:,} points, share of the time of their step", added, "%", at_most=2),
        Measure("the same, until the server has them, after the step", spent, "s"),
    ]


def logs(config: Mapping[str, int], inputs: Mapping[str, Path], work: Workspace) -> dict[str, float]:
    """A step that waits as long as epochs take, and logs a point of each curve after each."""
    for epoch in range(config["epochs"]):
        time.sleep(EPOCH)
        if config["curves"]:
            work.log({f"curve/{number}": float(epoch) for number in range(config["curves"])}, epoch)
    return {"epochs": config["epochs"]}


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
    report(__doc__, measure, tiny={"steps": 20, "epochs": 4})
