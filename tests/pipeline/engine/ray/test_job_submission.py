"""`ray job submit` as the README has it, against a head on this machine with its token authentication on."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from amalgam.pipeline.engine.execute import Local, Ray, run
from amalgam.pipeline.store.artifact import read_records
from tests.pipeline.example import walks

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).parents[4]
SCRIPTS = Path(sys.executable).parent


@dataclass(frozen=True)
class Head:
    """A running Ray head: the addresses of its dashboard and of the cluster, and the environment of its clients."""

    address: str
    cluster: str
    environment: dict[str, str]


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head with a home, and so a token, of its own; the path is short because Ray makes sockets below it."""
    with tempfile.TemporaryDirectory(prefix="head", ignore_cleanup_errors=True) as home:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {"HOME": home, "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
        environment["PATH"] = f"{SCRIPTS}{os.pathsep}{environment['PATH']}"
        subprocess.run([SCRIPTS / "ray", "get-auth-token", "--generate"], env=environment, check=True)
        gcs, dashboard, client, agent = free_ports(4)
        command = [
            SCRIPTS / "ray",
            "start",
            "--head",
            "--block",
            f"--temp-dir={home}/ray",
            "--num-cpus=2",
            "--include-dashboard=true",
            f"--port={gcs}",
            f"--dashboard-port={dashboard}",
            f"--ray-client-server-port={client}",
            f"--dashboard-agent-listen-port={agent}",
        ]
        process = subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
        try:
            address = f"http://127.0.0.1:{dashboard}"
            wait_for(address)
            yield Head(address, f"127.0.0.1:{gcs}", environment)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def wait_for(address: str, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=5).close()
            return
        except urllib.error.HTTPError as refused:
            refused.close()
            return  # It answers; that it wants a token is the point.
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(f"no Ray head at {address} within {seconds} s")


def submit(head: Head, root: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    experiment = ["python", "-m", "amalgam", "run", "tests/pipeline/example.py:walks", "--root", str(root)]
    command = [SCRIPTS / "ray", "job", "submit", "--address", head.address, "--working-dir", ".", "--", *experiment]
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)


def test_a_submitted_job_gives_what_a_local_run_gives(head, tmp_path):
    done = submit(head, tmp_path / "job", head.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    local = run([walks()], tmp_path / "local", Local())
    assert {r.key: r.metrics for r in read_records(tmp_path / "job")} == {
        record.key: record.metrics for record in local.records.values()
    }


def test_a_job_without_the_token_is_turned_away(head, tmp_path):
    stranger = head.environment | {"HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled"}
    done = submit(head, tmp_path / "job", stranger)
    assert done.returncode != 0
    assert "authentication" in (done.stdout + done.stderr).lower()
    assert not (tmp_path / "job").exists()


def test_a_driver_of_its_own_may_use_the_cluster(head, tmp_path):
    experiment = ["run", "tests/pipeline/example.py:walks", "--root", str(tmp_path), "--address", head.cluster]
    command = [sys.executable, "-m", "amalgam", *experiment]
    done = subprocess.run(command, cwd=REPOSITORY, env=head.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(read_records(tmp_path)) == 3


def test_what_the_cluster_can_never_offer_is_one_sentence(head, tmp_path):
    experiment = ["run", "tests/pipeline/example.py:walks", "--root", str(tmp_path), "--address", head.cluster]
    command = [sys.executable, "-m", "amalgam", *experiment, "--num-gpus", "walk=1"]
    done = subprocess.run(command, cwd=REPOSITORY, env=head.environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stdout + done.stderr
    assert re.search("'walk'.* 1 GPUs, .* more than 0", done.stderr)


def test_a_cluster_that_does_not_answer_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"no Ray cluster can be reached at 127\.0\.0\.1:9 .*leave out --address"):
        run([walks()], tmp_path, Ray("127.0.0.1:9"))
