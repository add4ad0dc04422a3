"""The cluster file is one that Ray's launcher takes, and what it names of this repository is there.

That the machines come up on AWS no test here can say.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray.scripts.scripts import cli as ray_command

from amalgam.pipeline.cli.operating.jobs import require_complete
from amalgam.pipeline.experiments import EXPERIMENTS

REPOSITORY = Path(__file__).parents[4]
FILE = REPOSITORY / "cluster.yaml"


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


@pytest.fixture
def home(tmp_path) -> Path:
    """The home folder of a machine of the cluster: this repository and environment, where the commands look for it."""
    (tmp_path / "amalgam").mkdir()
    (tmp_path / "amalgam" / ".venv").symlink_to(sys.prefix)
    return tmp_path


def test_the_launcher_takes_it(cluster):
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)


def test_gpu_workers_come_and_go(cluster):
    nodes = cluster["available_node_types"]
    workers = [node for name, node in nodes.items() if name != cluster["head_node_type"]]
    assert workers and all(node["resources"]["GPU"] and node["min_workers"] == 0 for node in workers)
    assert "GPU" not in nodes[cluster["head_node_type"]]["resources"]


def test_no_machine_gets_the_image_that_ray_would_choose(cluster):
    """Which has Python 3.6."""
    images = {node["node_config"].get("ImageId") for node in cluster["available_node_types"].values()}
    assert len(images) == 1 and not images & {None, "", "latest_dlami"}


@pytest.mark.parametrize("commands", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_ray_and_what_it_runs_find_the_environment(cluster, commands, home):
    """A job's `python` is looked for in the PATH of the shell that starts Ray."""
    *before, start = cluster[commands]
    assert all(re.fullmatch(r"cd ~/amalgam && \.venv/bin/ray stop", command) for command in before)
    until, _, _ = start.partition("ray start")
    found = subprocess.run(
        ["bash", "-c", f"{until} command -v ray python"],
        env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert found.stdout.split() == [str(home / "amalgam" / ".venv" / "bin" / name) for name in ("ray", "python")]


def test_the_commands_it_names_exist(cluster):
    text = FILE.read_text()
    for experiment in re.findall(r"amalgam run (\w+)", text):
        assert experiment in EXPERIMENTS
    subcommands = set(re.findall(r"\.venv/bin/ray ([\w-]+)", text))
    assert {"down", "stop"} <= subcommands <= set(ray_command.commands)
    [make] = [command for command in cluster["setup_commands"] if "make" in command and "cd" in command]
    subprocess.run(["make", "--dry-run", make.rpartition(" ")[2]], cwd=REPOSITORY, check=True, capture_output=True)


def test_the_extra_that_the_head_installs_has_what_ray_imports_on_aws(cluster):
    [install] = cluster["head_setup_commands"]
    [extra] = re.findall(r"'\.\[(\w+)\]'", install)
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(each.startswith("boto3") for each in extras[extra])


def test_values_that_nobody_filled_in_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="AMI_ID and EFS_ADDRESS"):
        require_complete(FILE)
    complete = tmp_path / "cluster.yaml"
    complete.write_text(FILE.read_text().replace("&image AMI_ID", "&image ami-1").replace("EFS_ADDRESS:/", "fs-1:/"))
    require_complete(complete)
    complete.write_text(complete.read_text().replace("max_workers: 8\nidle", "max_workers: many\nidle"))
    with pytest.raises(ValueError, match="max_workers 'many'"):
        require_complete(complete)
