"""What can be counted of whole drivers: two on a fresh root, and kills at random moments of a run on Ray."""

import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import psutil
from mlflow import MlflowClient

from amalgam.pipeline.store.artifact import read_records, verify
from amalgam.pipeline.tracking.store import store_of
from tests.campaign.process import FLAGS, amalgam

LONGEST = 600  # seconds that a driver may take before it counts as stuck
ON_RAY = tuple(flag for flag in FLAGS if flag != "--local")
ENDED = ("FINISHED", "FAILED", "KILLED")


def two_drivers(times: int) -> Mapping[str, float]:
    """Start the same experiment twice at once on a fresh root."""
    errors = doubled = 0
    for _ in range(times):
        with tempfile.TemporaryDirectory() as folder:
            drivers = [amalgam("run", *FLAGS, "--root", folder) for _ in range(2)]
            errors += sum(driver.wait(LONGEST) != 0 for driver in drivers)
            doubled += _trouble_in_mlflow(Path(folder))
    return {"pairs": times, "bad: drivers that failed": errors, "bad: runs doubled or left running": doubled}


def kills(times: int) -> Mapping[str, float]:
    """Kill a process of a run, drawn by chance, at a random moment, and start the run again until it ends by itself."""
    chance, counts = random.Random(0), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        if amalgam("run", *ON_RAY, "--root", f"{folder}/whole").wait(LONGEST):
            raise RuntimeError("the experiment failed")
        length, whole = time.monotonic() - begun, _weights(Path(folder, "whole"))
        done = 0
        while done < times:
            root = Path(folder, f"killed-{done}")
            for _ in range(min(3, times - done)):
                driver = amalgam("run", *ON_RAY, "--root", root)
                time.sleep(chance.uniform(0, length))
                counts[_kill_one(driver.pid, chance)] += 1
                done += 1
                driver.wait(LONGEST)
            counts["bad: stuck or failed"] += amalgam("run", *ON_RAY, "--root", root).wait(LONGEST) != 0
            amalgam("sync", "--root", root).wait(LONGEST)
            counts["bad: other bytes"] += _weights(root) != whole
            counts["bad: damaged"] += len(verify(root)[1])
            counts["bad: runs doubled or left running"] += _trouble_in_mlflow(root)
    return counts


def _kill_one(driver: int, chance: random.Random) -> str:
    """Kill the driver or one of the processes that it started; what was killed."""
    try:
        parent = psutil.Process(driver)
        victim = chance.choice([parent, *parent.children(recursive=True)])
        name = "driver" if victim == parent else victim.name().partition(":")[0]
        os.kill(victim.pid, signal.SIGKILL)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return "killed nobody: it had ended"
    return f"killed {name}"


def _weights(root: Path) -> dict[str, str]:
    """Digests of all weights under a root."""
    return {
        f"{record.key}/{name}": facts.sha256
        for record in read_records(root)
        for name, facts in record.files.items()
        if name.endswith(".safetensors")
    }


def _trouble_in_mlflow(root: Path) -> int:
    """Steps shown twice, runs that have not ended."""
    client = MlflowClient(store_of(root).uri)
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    shown = Counter(run.data.tags["fingerprint"] for run in runs if "fingerprint" in run.data.tags)
    return sum(number - 1 for number in shown.values()) + sum(run.info.status not in ENDED for run in runs)
