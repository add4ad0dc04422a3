"""Code of a user's reaches workers that see neither its file nor the files beside it, and changes what it makes."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from amalgam.pipeline.cli.flags import find_experiment, make_step
from amalgam.pipeline.engine.step import ancestors
from amalgam.pipeline.experiments.fusion.partial_fusion import partial_fusion
from amalgam.pipeline.store.artifact import read_records
from tests.pipeline.engine.ray.test_job_submission import REPOSITORY, SCRIPTS, free_ports

BESIDE = "WIDTH = 8\ndef widened(width): return width + WIDTH\n"
MINE = """
from dataclasses import replace
import numpy as np
from torch import nn
from beside import widened
from amalgam import Method
from amalgam.pipeline.engine.step import Step
from amalgam.tasks.fusion.matching import identity

class Net(nn.Sequential):
    def __init__(self, num_classes, in_shape):
        width = widened(4)
        super().__init__(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, num_classes))

class Half(Method):
    def match(self, members):
        matching = identity(members.axes, members.states)
        half = {group: size - widened(-6) for group, size in matching.universe.num_matched.items()}
        return replace(matching, universe=replace(matching.universe, num_matched=half))

def stripes(split, root):
    labels = np.arange(200) % 2
    pixels = np.zeros((200, 8, 8), np.uint8)
    pixels[labels == 1, ::2] = 255
    return pixels, labels, ("plain", "striped")

def measure(config, inputs, work):
    import later
    return {"width": widened(later.MORE)}

def mine() -> Step:
    return Step("mine", measure)
"""
OWN = {"num_classes": 2, "channels": 1, "image_size": 8, "seeds": 1, "members": 2, "epochs": 1, "probe_rows": 50}


@pytest.fixture
def code(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "code"
    folder.mkdir()
    for name, text in {"mine": MINE, "beside": BESIDE, "later": "MORE = 1\n"}.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.chdir(folder)
    return folder


def keys(code: Path) -> dict[str, set[str]]:
    """Fingerprints by kind of step: of a user's experiment, and of one with their model, data and method."""
    own = make_step(find_experiment("mine.py:mine"), {})
    flags = OWN | {"data": "mine.py:stripes", "model": "mine.py:Net", "methods": ("Identity", "mine.py:Half")}
    steps = [own, *ancestors([make_step(partial_fusion, flags)])]
    return {name: {step.fingerprint for step in steps if step.name == name} for name in {step.name for step in steps}}


@pytest.mark.parametrize("changed", ["mine.py", "beside.py"])
def test_a_change_in_the_file_or_beside_it_changes_what_it_makes(code, changed):
    before = keys(code)
    (code / changed).write_text((code / changed).read_text().replace("8", "9"))
    after = keys(code)
    assert {"mine", "member", "matching", "fused"} <= before.keys()
    assert not [name for name in before if before[name] & after[name]]


def test_a_change_in_a_file_that_nothing_imports_changes_nothing(code):
    before = keys(code)
    (code / "other.py").write_text("WIDTH = 9\n")
    assert keys(code) == before


@pytest.fixture
def blind_cluster(code) -> Iterator[tuple[str, dict[str, str]]]:
    """A cluster whose machine does not have the folder of the user's code."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("no file system can be hidden from a process here")
    with tempfile.TemporaryDirectory(prefix="blind", ignore_cleanup_errors=True) as home:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {"HOME": home, "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
        environment |= {"PYTHONPATH": str(REPOSITORY), "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"}
        subprocess.run([SCRIPTS / "ray", "get-auth-token", "--generate"], env=environment, check=True)
        (port,) = free_ports(1)
        start = (
            f"exec ray start --head --block --temp-dir={home}/ray --num-cpus=2 --include-dashboard=false --port={port}"
        )
        hidden = ["unshare", "--mount", "bash", "-c", f"mount -t tmpfs none {code} && cd {home} && {start}"]
        process = subprocess.Popen(hidden, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
        try:
            yield f"127.0.0.1:{port}", environment
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


@pytest.mark.slow
def test_models_methods_data_and_steps_reach_workers_that_have_no_such_file(blind_cluster, code, tmp_path):
    address, environment = blind_cluster
    flags = ["--data", "mine.py:stripes", "--model", f"{code}/mine.py:Net", "--methods", "mine.py:Half"]
    sizes = [f"--{name.replace('_', '-')}={value}" for name, value in OWN.items()]
    for experiment in (["mine.py:mine"], ["partial_fusion", *flags, *sizes]):
        command = [sys.executable, "-m", "amalgam", "run", *experiment, "--root", tmp_path / "runs"]
        done = subprocess.run([*command, "--address", address], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    found = read_records(tmp_path / "runs")
    assert {"mine", "member", "fused"} <= {record.name for record in found}
    assert [record.metrics for record in found if record.name == "mine"] == [{"width": 9}]
