"""The cluster file is one that Ray's launcher takes, and its commands are ones that exist."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from pipeline.experiments import EXPERIMENTS

FILE = Path(__file__).parents[2] / "cluster.yaml"


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


def test_the_launcher_takes_it(cluster):
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)


def test_gpu_workers_come_and_go(cluster):
    nodes = cluster["available_node_types"]
    workers = [node for name, node in nodes.items() if name != cluster["head_node_type"]]
    assert workers and all(node["resources"]["GPU"] and node["min_workers"] == 0 for node in workers)
    assert "GPU" not in nodes[cluster["head_node_type"]]["resources"]


def test_the_experiment_it_names_exists():
    [line] = [line for line in FILE.read_text().splitlines() if "amalgam run " in line]
    assert line.partition("amalgam run ")[2].split()[0] in EXPERIMENTS
