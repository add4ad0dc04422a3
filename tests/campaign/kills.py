"""Kills at random moments of every kind of step, over every kind of process that a run needs, and what they cost.

Each root sees three kills, of processes drawn in turn, and is then built to its end: its weights must be those of a run
that nobody disturbed, byte for byte, and MLflow must show every metric of every step once.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from mlflow import MlflowClient

from amalgam.pipeline.engine.build import STARTED
from amalgam.pipeline.store.artifact import Record, read_curves, read_records, verify
from amalgam.pipeline.tracking.store import SETTINGS
from amalgam.pipeline.tracking.view import step_metrics
from tests.campaign.drivers import LONGEST, ON_RAY, trouble_in_mlflow
from tests.campaign.process import amalgam

KILLS_OF_A_ROOT = 3
SERVER_START = 120  # seconds
SCHEDULE = ("schedule", "run-once", "campaign")


@dataclass
class Rig:
    """A root, the MLflow server that shows it, and the processes of the run that is going on."""

    root: Path
    chance: random.Random
    port: int = field(default_factory=lambda: _free_port())
    server: "subprocess.Popen[bytes] | None" = None

    @property
    def flags(self) -> tuple[str, ...]:
        """Where a run happens."""
        return ("--root", str(self.root), "--tracking-uri", f"http://127.0.0.1:{self.port}")

    def __enter__(self) -> "Rig":
        self.root.mkdir(parents=True)
        command = ["run", *ON_RAY, *self.flags[2:]]
        added = amalgam("schedule", "add", "campaign", "--cron", "0 0 * * *", *self.flags[:2], "--", *command)
        assert added.wait(LONGEST) == 0
        self.serve()
        return self

    def __exit__(self, *error: object) -> None:
        if self.server:
            _end_tree(self.server.pid)
            self.server.wait()

    def serve(self) -> None:
        """Start the server, again if it died, and wait until it answers."""
        if self.server is not None and self.server.poll() is None and _listens(self.port):
            return
        if self.server is not None:
            _end_tree(self.server.pid)
        store = f"sqlite:///{self.root}-mlflow.db"
        places = ["--backend-store-uri", store, "--default-artifact-root", f"{self.root}-artifacts"]
        command = [sys.executable, "-m", "mlflow", "server", *places, "--port", str(self.port), "-w", "1"]
        quiet = subprocess.DEVNULL
        self.server = subprocess.Popen(command, env=os.environ | SETTINGS, stdout=quiet, stderr=quiet)
        ends = time.monotonic() + SERVER_START
        while not _listens(self.port):
            if time.monotonic() > ends:
                raise RuntimeError("the MLflow server does not start")
            time.sleep(0.2)

    def started(self, victim: str) -> "subprocess.Popen[bytes]":
        """A run that goes on, by way of the scheduler if that is to be killed."""
        if victim == "scheduler":
            return amalgam(*SCHEDULE, *self.flags[:2])
        return amalgam("run", *ON_RAY, *self.flags)


def _driver(rig: Rig, run: psutil.Process) -> psutil.Process | None:
    return run


def _named(part: str) -> Callable[[Rig, psutil.Process], psutil.Process | None]:
    """Draws one of a run's processes whose command line begins so."""

    def draw(rig: Rig, run: psutil.Process) -> psutil.Process | None:
        alike = [process for process in run.children(recursive=True) if part in _command(process)]
        return rig.chance.choice(alike) if alike else None

    return draw


def _mlflow(rig: Rig, run: psutil.Process) -> psutil.Process | None:
    if rig.server is None:
        return None
    server = psutil.Process(rig.server.pid)
    return rig.chance.choice([server, *server.children(recursive=True)])


VICTIMS: Mapping[str, Callable[[Rig, psutil.Process], psutil.Process | None]] = {
    "driver": _driver,
    "worker": _named("ray::"),
    "raylet": _named("raylet/raylet"),
    "GCS": _named("gcs_server"),
    "MLflow server": _mlflow,
    "scheduler": _driver,  # which is what was started
}


def kills(times: int, seed: int = 0) -> Mapping[str, float]:
    """Kill so many processes, each kind in turn, at random moments of each kind of step in turn."""
    chance, counts = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        if amalgam("run", *ON_RAY, "--root", f"{folder}/whole").wait(LONGEST):
            raise RuntimeError("the experiment failed")
        whole = read_records(Path(folder, "whole"))
        order = _order(times, seed, [record.name for record in whole])
        while order:
            some, order = order[:KILLS_OF_A_ROOT], order[KILLS_OF_A_ROOT:]
            with Rig(Path(folder, f"killed-{len(order)}"), chance) as rig:
                for victim, kind in some:
                    usual = max(record.seconds for record in whole if record.name == kind)
                    counts[_kill(rig, victim, kind, usual)] += 1
                    rig.serve()
                counts.update(_trouble(rig, whole))
            print(f"  {len(order)} kills left: {dict(counts)}", flush=True)
    return counts


def _order(times: int, seed: int, kinds: Sequence[str]) -> list[tuple[str, str]]:
    """Who is killed during which kind of step: every kind of both in turn."""
    kinds, victims = list(dict.fromkeys(kinds)), list(VICTIMS)
    return [
        (victims[number % len(victims)], kinds[(number + number // len(victims)) % len(kinds)])
        for number in range(seed, seed + times)
    ]


def _kill(rig: Rig, victim: str, kind: str, usual: float) -> str:
    """Start a run, kill at a random moment of a step of that kind, and let the run end; what was killed."""
    run = rig.started(victim)
    begun, killed = time.time(), f"killed nobody instead of {victim}: the run had ended"
    while run.poll() is None and not _is_built(rig.root, kind, begun):
        time.sleep(0.01)
    time.sleep(rig.chance.uniform(0, usual))
    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        if run.poll() is None and (process := VICTIMS[victim](rig, psutil.Process(run.pid))):
            children = psutil.Process(run.pid).children(recursive=True)
            os.kill(process.pid, signal.SIGKILL)
            killed = f"killed {victim}"
            if victim == "scheduler":
                psutil.wait_procs(children, LONGEST)  # its command goes on
    try:
        run.wait(LONGEST)
    except subprocess.TimeoutExpired:
        _end_tree(run.pid)
        return f"bad: stuck after {killed}"
    return killed


def _is_built(root: Path, kind: str, since: float) -> bool:
    """Whether a step of that kind is being built, or was since then."""
    times = [*root.glob(f".building/{kind}-*/{STARTED}"), *root.glob(f"{kind}-*/step.json")]
    with suppress(FileNotFoundError):
        return any(path.stat().st_mtime >= since for path in times)
    return True


def _trouble(rig: Rig, whole: Sequence[Record]) -> Counter[str]:
    """Build the root to its end, log all of it, and count what is not as it should be."""
    counts = Counter[str](roots=1)
    for command in (("run", *ON_RAY), ("sync",)):
        ended = amalgam(*command, *rig.flags)
        try:
            counts["bad: failed in the end"] += ended.wait(LONGEST) != 0
        except subprocess.TimeoutExpired:
            _end_tree(ended.pid)
            counts["bad: stuck in the end"] += 1
    records = read_records(rig.root)
    counts["bad: other bytes"] += _weights(records) != _weights(whole)
    counts["bad: damaged"] += len(verify(rig.root)[1])
    client = MlflowClient(f"http://127.0.0.1:{rig.port}")
    counts["bad: runs doubled or left running"] += trouble_in_mlflow(client)
    counts["bad: metrics lost or doubled"] += sum(_wrong_metrics(client, record, rig.root) for record in records)
    counts["metrics"] += sum(len(_expected(record, rig.root)) for record in records)
    return counts


def _weights(records: Sequence[Record]) -> dict[str, str]:
    return {
        f"{record.key}/{name}": facts.sha256
        for record in records
        for name, facts in record.files.items()
        if name.endswith(".safetensors")
    }


def _expected(record: Record, root: Path) -> Counter[tuple[str, int, str]]:
    points = step_metrics(record, read_curves(root / record.key))
    return Counter((point.key, point.step, repr(point.value)) for point in points)


def _wrong_metrics(client: MlflowClient, record: Record, root: Path) -> int:
    """How many points of a step the store lacks, or has once too often."""
    places = [experiment.experiment_id for experiment in client.search_experiments()]
    expected, found = _expected(record, root), Counter[tuple[str, int, str]]()
    for run in client.search_runs(places, f"tags.fingerprint = '{record.fingerprint}'"):
        for name in run.data.metrics:
            if any(name == key for key, _, _ in expected):
                history = client.get_metric_history(run.info.run_id, name)
                found.update((point.key, point.step, repr(point.value)) for point in history)
    return (expected - found).total() + (found - expected).total()


def _command(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def _end_tree(pid: int) -> None:
    """End a process that we started, and all that it started."""
    with suppress(psutil.NoSuchProcess):
        for process in [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0
