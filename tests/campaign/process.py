"""What can be counted within one process: flipped bits in every kind of file, a thousand steps one after another."""

import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from amalgam.pipeline.engine.execute import Local, run
from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.store.artifact import RECORD, damage_of, finished
from amalgam.pipeline.tracking.run_record import FOLDER, read_runs

SMALL = ("digits_partial_fusion", "--members", "2", "--seeds", "1", "--epochs", "2", "--widths", "12,8")
FLAGS = (*SMALL, "--alphas", "0,0.5", "--probe-rows", "40", "--local")
"""An experiment with every kind of file, seconds long."""


def amalgam(*arguments: object) -> "subprocess.Popen[bytes]":
    """The command line in a process of its own, which can be ended with all that it starts."""
    command = [sys.executable, "-m", "amalgam", *map(str, arguments)]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)


def flips(times: int) -> Mapping[str, float]:
    """Flip one bit of a file, look whether the step would be used, and flip it back; so many times for each kind."""
    counts, chance = defaultdict[str, float](float), random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if amalgam("run", *FLAGS, "--root", root).wait():
            raise RuntimeError("the experiment failed")
        for kind, paths in _kinds(root).items():
            counts["kinds"] += 1
            for _ in range(times):
                path = chance.choice(paths)
                counts["flips"] += 1
                counts[f"bad: used silently, {kind}"] += _is_used(root, path, chance)
    return {what: count for what, count in counts.items() if count or not what.startswith("bad")} | {
        "bad in all": sum(count for what, count in counts.items() if what.startswith("bad"))
    }


def _kinds(root: Path) -> Mapping[str, list[Path]]:
    """The files under a root by step and name."""
    found = defaultdict[str, list[Path]](list)
    for path in sorted(root.rglob("*")):
        place = path.relative_to(root).parts
        if path.is_file() and path.stat().st_size and (place[0][0] != "." or place[0] == FOLDER):
            if place[0] in ("mlflow.db", "mlartifacts"):
                continue
            found[place[0] if place[0] == FOLDER else f"{place[0].rpartition('-')[0]}/{place[-1]}"].append(path)
    return found


def _is_used(root: Path, path: Path, chance: random.Random) -> bool:
    """Whether what a flip changed would be taken for whole; a record that still says the same is."""
    with _flipped(path, chance):
        if path.parent.name == FOLDER:
            return path not in [run.path(root) for run in read_runs(root)] and bool(read_runs(root))
        step = root / path.relative_to(root).parts[0]
        if path.name != RECORD:
            return damage_of(step) is None
        seen = finished(step)
    return seen is not None and seen != finished(step)


@contextmanager
def _flipped(path: Path, chance: random.Random) -> Iterator[None]:
    before = path.read_bytes()
    data = bytearray(before)
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(before)


def nothing(config: Mapping[str, int], inputs: Mapping[str, Path], work: Workspace) -> dict[str, float]:
    """A step that computes nothing."""
    (work.out / "file").write_text("content")
    return {"number": config["number"]}


def soak(times: int) -> Mapping[str, float]:
    """Memory, open files and processor time of so many steps, the last fifth beside the first."""
    process, fifth = psutil.Process(), times // 5
    root = Path(tempfile.mkdtemp())
    looks, seconds = list[tuple[float, int]](), list[float]()
    try:
        for number in range(times):
            begun = time.process_time()
            run([Step("nothing", nothing, {"number": number})], root, Local())
            seconds.append(time.process_time() - begun)
            looks.append((process.memory_info().rss / 2**20, process.num_fds()))
    finally:
        shutil.rmtree(root)
    first, last = statistics.median(seconds[:fifth]), statistics.median(seconds[-fifth:])
    grown, opened = looks[-1][0] - looks[fifth][0], looks[-1][1] - looks[fifth][1]
    return {
        "ms of processor time a step": 1000 * last,
        "times as long as at first": last / first,
        "MB more": grown,
        "files more": opened,
        "bad: slower by half, 20 MB or a file more": (last > 1.5 * first) + (grown > 20) + (opened > 0),
    }
