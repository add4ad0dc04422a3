"""What the engine needs of a machine is there on every system, and locks end with the process that holds them."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from amalgam.pipeline.engine import host
from amalgam.pipeline.engine.host import free_bytes, metered, sampled
from amalgam.pipeline.store.storage import Folder

CURVES = ("cpu_utilization_percentage", "memory_megabytes")


def test_free_memory_is_known_where_there_is_no_sysconf(monkeypatch):
    monkeypatch.delattr(os, "sysconf")  # as on Windows; macOS lacks the number of free pages
    assert 0 < free_bytes("cpu") < psutil.virtual_memory().total


@pytest.mark.parametrize("missing", ["fcntl", "ray"])
def test_steps_are_built_without_modules_of_unix_and_without_ray(missing):
    program = f"import sys; sys.modules[{missing!r}] = None; import amalgam.pipeline.engine.execute"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_what_a_step_takes_of_its_machine_is_a_curve(monkeypatch):
    """The points of CPU time add up to what the process took, and a long step has more points, ever fewer."""
    monkeypatch.setattr(host, "SAMPLE", 0.01)
    ends = time.monotonic() + 60
    with metered("cpu") as used, sampled("cpu") as points:
        while len(points) < 40:
            sum(range(1000))
            assert time.monotonic() < ends, "nothing is sampled"
    curves = {name: [p for p in points if p.metric == f"system/{name}"] for name in CURVES}
    assert set(curves) == {point.metric.removeprefix("system/") for point in points}
    busy, memory = curves["cpu_utilization_percentage"], curves["memory_megabytes"]
    spans = [late.time - early.time for early, late in pairwise(busy)]
    seconds = sum(span * point.value / 100 for span, point in zip(spans, busy[1:], strict=True))
    assert 0 < seconds < used["cpu_seconds"] * 1.5
    assert all(0 < point.value < 1.1 * used["peak_memory"] / 2**20 for point in memory)
    assert len(points) == len(busy) + len(memory) and not any(t.name == "samples" for t in threading.enumerate())


def hold(root: Path, taken) -> None:
    with Folder(root).alone("step"):
        taken.set()
        time.sleep(60)


def test_the_lock_of_a_killed_builder_is_free_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    taken = context.Event()
    builder = context.Process(target=hold, args=(tmp_path, taken))
    builder.start()
    assert taken.wait(60)
    os.kill(builder.pid, signal.SIGKILL)
    builder.join()
    started = time.monotonic()
    with Folder(tmp_path).alone("step"):
        assert time.monotonic() - started < 10
