"""This machine: its threads, its device, and what a record says of it."""

import getpass
import importlib.metadata
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from amalgam.pipeline.engine.step import Resources
from amalgam.pipeline.store.artifact import Point

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals by which this machine asks a program to end."""

PATIENCE = 10  # seconds that git may take in a large work tree
SAMPLE, SPARSER = 10.0, 0.02  # seconds between two samples of a step, and the share of its time after which one is due


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Hold torch, BLAS and Arrow to `count` threads: sums split differently differ in their last bits."""
    os.environ["OMP_NUM_THREADS"] = str(count)  # For libraries that the function imports only when it runs.
    torch, arrow = sys.modules.get("torch"), sys.modules.get("pyarrow")
    before, before_in_arrow = torch.get_num_threads() if torch else count, arrow.cpu_count() if arrow else count
    with _thread_pools(len(sys.modules)).limit(limits=count):
        if torch:
            torch.set_num_threads(count)
        if arrow:
            arrow.set_cpu_count(count)
        try:
            yield
        finally:
            if torch:
                torch.set_num_threads(before)
            if arrow:
                arrow.set_cpu_count(before_in_arrow)


@lru_cache(maxsize=1)
def _thread_pools(num_modules: int) -> Any:
    """The thread pools of the libraries that this process has loaded, looked for again when it has imported more."""
    from threadpoolctl import ThreadpoolController  # here, not above: a plan needs no numerics

    return ThreadpoolController()


def device_of(resources: Resources) -> str:
    """`cuda` if a GPU is requested, else `cpu`. Raises ValueError if it is requested and absent."""
    if not resources.num_gpus:
        return "cpu"
    import torch  # here, not above: most steps and every plan need no GPU

    if not torch.cuda.is_available():
        raise ValueError(f"{resources.num_gpus:g} GPUs are requested, but torch finds none: request 0")
    return "cuda"


def free_bytes(device: str) -> int:
    """Memory that nobody uses on a device, in bytes."""
    import psutil  # here and below, not above: plans need neither
    import torch

    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return int(psutil.virtual_memory().available)


def require_device(name: str) -> None:
    """Raise ValueError unless torch can compute on the device of that name."""
    import torch  # here, not above: every plan needs none

    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"torch cannot compute on device {name!r} here: give cpu, or cuda where there is one"
        ) from error


def host_facts(device: str) -> dict[str, str]:
    """Versions and hardware that may explain a difference between two records."""
    return _facts() | ({"gpu": sys.modules["torch"].cuda.get_device_name()} if device == "cuda" else {})


@cache  # to read three versions costs as much as to build a step that computes nothing
def _facts() -> dict[str, str]:
    facts = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "ray")}
    return facts | {"python": platform.python_version(), "platform": platform.platform(), "cpus": str(os.cpu_count())}


def source_commit() -> str | None:
    """Git commit of this source tree, with `+changes` if files differ from it; None outside a work tree."""
    return commit_of(Path(__file__).parent)


def commit_of(folder: Path) -> str | None:
    """Git commit of the work tree that a folder lies in, with `+changes` if files differ from it; None outside one."""
    try:
        changes = "+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else ""
        return _git(folder, "rev-parse", "HEAD") + changes
    except (OSError, subprocess.SubprocessError):
        return None


def origin(folder: Path) -> dict[str, str]:
    """Who runs this process, its command without passwords in addresses, and the commit of the code in `folder`."""
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    found = {"user": _user(), "command": re.sub(r"//[^/@\s]+@", "//", command), "commit": commit_of(folder)}
    return {name: value for name, value in found.items() if value}


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have a number and no name
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=PATIENCE)
    return done.stdout.strip()


@contextmanager
def metered(device: str) -> Iterator[dict[str, float]]:
    """What this process takes in the block, filled in at its end: CPU seconds, and peaks of memory in bytes."""
    used, begun = dict[str, float](), time.process_time()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak is counted anew
    cuda = sys.modules["torch"].cuda if device == "cuda" else None
    if cuda:
        cuda.reset_peak_memory_stats()
    yield used
    used["cpu_seconds"] = time.process_time() - begun
    with suppress(OSError, StopIteration):
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        used["peak_memory"] = 1024 * float(line.split()[1])
    if cuda:
        used["peak_gpu_memory"] = float(cuda.max_memory_allocated())


@contextmanager
def sampled(device: str) -> Iterator[list[Point]]:
    """What this process takes of its machine while the block goes on, as curves named as MLflow's system metrics.

    A point by second, ever more seldom: an hour has about 150, a day 300.
    """
    points, ended, begun = list[Point](), threading.Event(), time.monotonic()

    def sample() -> None:
        import psutil  # here, not above: plans need none

        process, before, used_before = psutil.Process(), begun, time.process_time()
        while not ended.wait(max(SAMPLE, (time.monotonic() - begun) * SPARSER)):
            now, used = time.monotonic(), time.process_time()
            found = {"cpu_utilization_percentage": 100 * (used - used_before) / (now - before)}
            found["memory_megabytes"] = process.memory_info().rss / 2**20
            if device == "cuda":
                found["gpu_memory_megabytes"] = sys.modules["torch"].cuda.memory_allocated() / 2**20
            step, moment = int(now - begun), time.time()
            points.extend(Point(metric=f"system/{n}", value=v, step=step, time=moment) for n, v in found.items())
            before, used_before = now, used

    thread = threading.Thread(target=sample, daemon=True, name="samples")
    thread.start()
    try:
        yield points
    finally:
        ended.set()
        thread.join()
