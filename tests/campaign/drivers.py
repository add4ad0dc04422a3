"""What can be counted of two drivers at once on a fresh root."""

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient

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
            doubled += trouble_in_mlflow(MlflowClient(store_of(Path(folder)).uri))
    return {"pairs": times, "bad: drivers that failed": errors, "bad: runs doubled or left running": doubled}


def trouble_in_mlflow(client: MlflowClient) -> int:
    """Steps shown twice, runs that have not ended."""
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    shown = Counter(run.data.tags["fingerprint"] for run in runs if "fingerprint" in run.data.tags)
    return sum(number - 1 for number in shown.values()) + sum(run.info.status not in ENDED for run in runs)
