"""`amalgam submit` and drivers of their own, against a head on this machine with its token authentication on."""

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
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import ray

from amalgam.pipeline.cli.flags import find_experiment, make_step
from amalgam.pipeline.engine.execute import Local, Ray, run
from amalgam.pipeline.engine.ray.jobs import Cluster, require_small
from amalgam.pipeline.store.artifact import read_records
from amalgam.pipeline.tracking.run_record import read_runs
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
    process: "subprocess.Popen[bytes]"


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with running_head() as found:
        yield found


@contextmanager
def running_head() -> Iterator[Head]:
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
            yield Head(address, f"127.0.0.1:{gcs}", environment, process)
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


def amalgam(head: Head, *arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The outcome of a command whose address is that of the head."""
    command = [sys.executable, "-m", "amalgam", *map(str, arguments), "--address", head.address]
    known = head.environment | environment | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, cwd=REPOSITORY, env=known, capture_output=True, text=True)


def test_a_submitted_job_gives_what_a_local_run_gives_and_its_id_is_taken_once(head, tmp_path):
    command = ("submit", "tests/pipeline/example.py:walks", "--root", tmp_path / "job", "--submission-id", "walks-1")
    done = amalgam(head, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "walks-1: SUCCEEDED" in done.stdout and "MLflow run walks-" in done.stdout
    assert [line for line in done.stdout.splitlines() if line.startswith("3/3 built")], "labels and a count"
    assert not re.search(r"built +\S+-[0-9a-f]{16}", done.stdout), "no hashes"
    target = make_step(find_experiment(f"{REPOSITORY}/tests/pipeline/example.py:walks"), {})
    local = run([target], tmp_path / "local", Local())
    assert {r.key: r.metrics for r in read_records(tmp_path / "job")} == {
        record.key: record.metrics for record in local.records.values()
    }
    again = amalgam(head, *command)
    assert again.returncode == 0 and "SUCCEEDED already" in again.stdout
    listed = amalgam(head, "status")
    assert listed.returncode == 0 and listed.stdout.count("walks-1") == 1


def test_the_code_of_a_user_travels_with_the_job_and_its_exit_status_comes_back(head, tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "beside.py").write_text("def level(): return 5\n")
    (tmp_path / "code" / "mine.py").write_text(
        "import beside\nfrom amalgam.pipeline.engine.step import Step\n"
        "def measure(config, inputs, work):\n"
        "    if config['bad']: raise ValueError('this is refused')\n"
        "    return {'level': beside.level()}\n"
        "def mine(bad: bool = False): return Step('mine', measure, {'bad': bad})\n"
    )
    command = ("submit", f"{tmp_path / 'code' / 'mine.py'}:mine", "--root", tmp_path / "runs")
    flags = ("--working-dir", tmp_path / "code")
    installed = {"PYTHONPATH": str(REPOSITORY)}
    done = amalgam(head, *command, *flags, **installed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [record.metrics for record in read_records(tmp_path / "runs")] == [{"level": 5}]
    failed = amalgam(head, *command, "--bad", "--local", *flags, "--submission-id", "bad")
    assert failed.returncode == 2 and "this is refused" in failed.stdout
    assert amalgam(head, "status", "bad").returncode == 2
    elsewhere = amalgam(head, *command)
    assert elsewhere.returncode == 2 and "--working-dir" in elsewhere.stderr


def test_a_job_that_is_stopped_is_killed_and_goes_on_when_it_is_submitted_again(head, tmp_path):
    (tmp_path / "slow.py").write_text(
        "import time\nfrom pathlib import Path\nfrom amalgam.pipeline.engine.step import Step\n"
        "def wait(config, inputs, work):\n"
        "    while not Path(config['until']).exists(): time.sleep(0.1)\n"
        "    return {}\n"
        "def slow(until: str): return Step('slow', wait, {'until': until})\n"
    )
    command = ("submit", "slow.py:slow", "--until", tmp_path / "go", "--root", tmp_path / "runs", "--local")
    flags = ("--working-dir", tmp_path, "--submission-id", "slow-1")
    begun = amalgam(head, "submit", f"{tmp_path}/slow.py:slow", *command[2:], *flags, "--no-wait")
    assert begun.returncode == 0, begun.stderr
    ends = time.monotonic() + 240
    while not list((tmp_path / "runs").glob(".building/*/started")):
        assert time.monotonic() < ends
        time.sleep(0.2)
    assert amalgam(head, "stop", "slow-1").returncode == 0
    assert amalgam(head, "status", "slow-1").returncode == 130  # it has ended when the command returns
    while [r.status for r in read_runs(tmp_path / "runs")] != ["KILLED"]:
        assert time.monotonic() < ends
        time.sleep(0.2)
    (tmp_path / "go").touch()
    done = amalgam(head, "submit", f"{tmp_path}/slow.py:slow", *command[2:], *flags)
    assert done.returncode == 0 and "submitted again" in done.stdout, done.stdout + done.stderr
    assert amalgam(head, "stop", "slow-9").returncode == 2


def test_what_no_cluster_could_take_is_one_sentence(head, tmp_path):
    for arguments, named in [
        (("submit", "mnist_partial_fusoin"), "mnist_partial_fusion"),
        (("submit", "mnist_partial_fusion", "--seeds", "x"), "--seeds"),
        (("submit", "tests/pipeline/example.py:walks", "--submission-id", "a b"), "'a b'"),
    ]:
        done = amalgam(head, *arguments)
        assert done.returncode == 2 and named in done.stderr and "Traceback" not in done.stderr
    (tmp_path / "weights").write_bytes(b"")
    os.truncate(tmp_path / "weights", 10**9)
    with pytest.raises(ValueError, match=r"1000 MB .*weights"):
        require_small(tmp_path)
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:9"):
        Cluster("http://127.0.0.1:9").jobs()
    with pytest.raises(ValueError, match="'auto'"):
        Cluster("auto")


def test_a_job_without_the_token_is_turned_away(head, tmp_path):
    stranger = head.environment | {"HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled"}
    known = replace(head, environment=stranger)
    done = amalgam(known, "submit", "tests/pipeline/example.py:walks", "--root", tmp_path / "job")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "token" in done.stderr
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


def test_a_ray_that_does_not_start_is_tried_again_and_then_one_sentence(tmp_path, monkeypatch, capsys):
    """As on a machine that is so busy that the processes of Ray are not there in 30 seconds."""
    start, failures = ray.init, [1, 1]

    def late(*arguments: object, **named: object) -> object:
        if failures and failures.pop():
            raise Exception("The current node timed out during startup. This could happen because ...")
        return start(*arguments, **named)

    monkeypatch.setattr(ray, "init", late)
    run([walks()], tmp_path, Ray())
    assert capsys.readouterr().out.count("trying again") == 2
    failures += [1, 1, 1]
    with pytest.raises(ValueError, match=r"timed out during startup.*--local"):
        run([walks(seeds=(7,))], tmp_path, Ray())


def test_a_cluster_that_does_not_answer_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:9 .*--address"):
        run([walks()], tmp_path, Ray("127.0.0.1:9"))
