"""A Ray cluster on this machine: from `amalgam submit` to the first step, and what a second node is worth.

A head is started and a job submitted to it that builds a step at once; the second such job is timed, from the shell's
point of view. Then eight members that only sleep, one to a CPU, are built on a cluster of one node with four CPUs and
on one of two such nodes, so that the cores of this machine do not count: by the time from the first member's start to
the last one's end, which leaves the start of Ray out and that of each worker in.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from amalgam.pipeline.engine.execute import Ray, run
from amalgam.pipeline.engine.step import Step
from amalgam.pipeline.engine.workspace import Workspace
from amalgam.pipeline.tracking.store import Store
from benchmarks.machine import free_port
from benchmarks.measure import Measure, report
from benchmarks.system.parallel import span

MEMBERS, CPUS = 8, 4
REPOSITORY = Path(__file__).parents[2]


def measure(asleep: float = 40.0) -> list[Measure]:
    """Seconds from submission to the first step, and the time on two nodes over that on one."""
    with head() as (address, environment), tempfile.TemporaryDirectory() as folder:
        first = [submitted(address, environment, Path(folder, str(number))) for number in range(2)]
    spans = [slept(nodes, asleep) for nodes in (1, 2)]
    return [
        Measure("submit to the first step, no worker warm", first[0], "s"),
        Measure("submit to the first step of a second job", first[1], "s", at_most=10),
        Measure(f"{MEMBERS} sleeping members on one node", spans[0], "s"),
        Measure(f"{MEMBERS} sleeping members on two nodes", spans[1], "s"),
        Measure("two nodes over one", spans[1] / spans[0], "x", at_most=1 / 1.8),
    ]


@contextmanager
def head() -> Iterator[tuple[str, Mapping[str, str]]]:
    """The address of a new head's dashboard, and the environment of its clients."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as home:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {"HOME": home, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
        environment["PYTHONPATH"] = str(REPOSITORY)
        port, program = free_port(), str(Path(sys.executable).with_name("ray"))
        command = [program, "start", "--head", "--block", f"--temp-dir={home}/ray", "--num-cpus=2", "--port=0"]
        command += [f"--dashboard-port={port}", f"--dashboard-agent-listen-port={free_port()}"]
        process = subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
        try:
            address = f"http://127.0.0.1:{port}"
            while Store(f"{address}/api/version").problem():
                time.sleep(0.5)
            yield address, environment
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def submitted(address: str, environment: Mapping[str, str], root: Path) -> float:
    """Seconds from the start of `amalgam submit` until it prints that a step was built."""
    code = root.with_suffix(".d")
    code.mkdir()
    shutil.copy(__file__, code / "job.py")
    command = [sys.executable, "-m", "amalgam", "submit", "job.py:one", "--address", address, "--root", str(root)]
    begun, first = time.perf_counter(), None
    job = subprocess.Popen(command, cwd=code, env=dict(environment), stdout=subprocess.PIPE, text=True)
    assert job.stdout is not None
    for line in job.stdout:
        first = first or (time.perf_counter() - begun if " built " in line else None)
    if job.wait() or first is None:
        raise RuntimeError(f"{' '.join(command)} ended with {job.returncode}")
    return first


def slept(nodes: int, asleep: float) -> float:
    """Seconds that the members take on so many nodes."""
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=CPUS)
        members = [Step("sleeper", sleep, {"member": number, "seconds": asleep}) for number in range(MEMBERS)]
        with tempfile.TemporaryDirectory() as root:
            return span(run(members, Path(root), Ray(cluster.address)))
    finally:
        cluster.shutdown()


def sleep(config: Mapping[str, float], inputs: Mapping[str, Path], work: Workspace) -> dict[str, float]:
    """Train nothing, for so long."""
    time.sleep(config["seconds"])
    return {"member": config["member"]}


def one() -> Step:
    """A step that is built at once."""
    return Step("sleeper", sleep, {"member": 0, "seconds": 0.0})


if __name__ == "__main__":
    report(__doc__, measure, tiny={"asleep": 1.0})
