"""What the engine needs of a machine is there on every system, and locks end with the process that holds them."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from amalgam.pipeline.engine.host import free_bytes
from amalgam.pipeline.store.storage import Folder


def test_free_memory_is_known_where_there_is_no_sysconf(monkeypatch):
    monkeypatch.delattr(os, "sysconf")  # as on Windows; macOS lacks the number of free pages
    assert 0 < free_bytes("cpu") < psutil.virtual_memory().total


@pytest.mark.parametrize("missing", ["fcntl", "ray"])
def test_steps_are_built_without_modules_of_unix_and_without_ray(missing):
    program = f"import sys; sys.modules[{missing!r}] = None; import amalgam.pipeline.engine.execute"
    subprocess.run([sys.executable, "-c", program], check=True)


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
