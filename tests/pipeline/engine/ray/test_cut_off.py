"""Two nodes in network namespaces of their own, of which one is cut off: the job ends on the other."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from amalgam.pipeline.store.artifact import read_records, verify

NAPS = f"{Path(__file__).with_name('naps.py')}:naps"
SCRIPTS = Path(sys.executable).parent
HEAD, NODE = "10.77.0.1", "10.77.0.2"
QUICK = {"health_check_period_ms": 2000, "health_check_timeout_ms": 5000, "health_check_failure_threshold": 4}
NUM_NAPS = 8


def ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True, capture_output=True)


@pytest.fixture
def spaces() -> Iterator[tuple[str, str]]:
    """Names of two namespaces with a wire between them; the test is skipped where this user cannot make them."""
    head, node = (f"amalgam-{os.getpid()}-{part}" for part in "ab")
    with ExitStack() as made:
        try:
            for name in (head, node):
                ip(f"netns add {name}")
                made.callback(ip, f"netns del {name}")
            ip(f"link add wire netns {head} type veth peer name wire netns {node}")
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no network namespaces can be made here: {error}")
        for name, address in ((head, HEAD), (node, NODE)):
            for command in (f"addr add {address}/24 dev wire", "link set wire up", "link set lo up"):
                ip(f"-n {name} {command}")
        yield head, node


@contextmanager
def running(
    space: str, command: list[str], environment: dict[str, str], log: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    """A program in a namespace, ended with all that it started."""
    with log.open("wb") as out:
        started = ["ip", "netns", "exec", space, *command]
        process = subprocess.Popen(started, env=environment, stdout=out, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            with suppress(psutil.NoSuchProcess):
                for each in [*psutil.Process(process.pid).children(recursive=True), process]:
                    with suppress(psutil.NoSuchProcess):
                        each.kill()
            process.wait()


def ray_start(*flags: str) -> list[str]:
    temporary = tempfile.mkdtemp(prefix="ray")  # short, as Ray makes sockets there
    return [str(SCRIPTS / "ray"), "start", "--block", "--num-cpus=1", f"--temp-dir={temporary}", *flags]


def wait_until(condition, seconds: float = 180) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.2)


@pytest.mark.proof
def test_a_node_that_is_cut_off_costs_no_step(spaces, tmp_path):
    head, node = spaces
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
    environment |= {f"RAY_{name}": str(value) for name, value in QUICK.items()}
    subprocess.run([SCRIPTS / "ray", "get-auth-token", "--generate"], env=environment, check=True, capture_output=True)
    root, cluster = tmp_path / "runs", f"{HEAD}:6379"
    first = ray_start("--head", "--port=6379", f"--node-ip-address={HEAD}", "--include-dashboard=false")
    other = ray_start(f"--address={cluster}", f"--node-ip-address={NODE}")
    run = [sys.executable, "-m", "amalgam", "run", NAPS, "--address", cluster, "--root", str(root)]
    run += ["--number", str(NUM_NAPS)]
    listens = [
        "ip",
        "netns",
        "exec",
        node,
        "python3",
        "-c",
        f"import socket; socket.create_connection(('{HEAD}', 6379), 1)",
    ]
    with running(head, first, environment, tmp_path / "head.log"):
        wait_until(lambda: subprocess.run(listens, capture_output=True).returncode == 0)
        with (
            running(node, other, environment, tmp_path / "node.log") as second,
            running(head, run, environment, tmp_path / "run.log") as driver,
        ):
            wait_until(lambda: driver.poll() is not None or _hosts_a_nap(second.pid))
            assert driver.poll() is None, (tmp_path / "run.log").read_text()
            ip(f"-n {node} link set wire down")
            assert driver.wait(300) == 0, (tmp_path / "run.log").read_text()
    records = read_records(root)
    assert len(records) == NUM_NAPS + 1 and verify(root) == (NUM_NAPS + 1, [])
    assert next(r.metrics["total"] for r in records if r.name == "collect") == sum(range(NUM_NAPS))


def _hosts_a_nap(pid: int) -> bool:
    """Whether a worker among the descendants of a process is at work."""
    return any("ray::nap" in " ".join(p.cmdline()) for p in psutil.Process(pid).children(recursive=True))
