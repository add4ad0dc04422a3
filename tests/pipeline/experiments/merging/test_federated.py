"""Federations as an experiment: on a cluster as here, and what is wrong is refused before anything runs."""

import pytest

from amalgam.pipeline.engine.execute import Local, Ray, run
from amalgam.pipeline.engine.step import ancestors
from amalgam.pipeline.experiments import EXPERIMENTS
from amalgam.pipeline.reports.builder import read_rows
from amalgam.pipeline.store.tables.results import read_results

SMALL = {"seeds": 1, "rounds": 2, "width": 8, "clients": 3}


def results(root, report):
    steps = [step for step in ancestors([report]) if step.name == "federation"]
    return {(r.network.label, r.metric): r.value for step in steps for r in read_results(step.path(root))}


def test_every_rule_has_a_row(tmp_path):
    report = EXPERIMENTS["federated"](**SMALL)
    run([report], tmp_path, Local())
    labels = [row["label"] for row in read_rows(report.path(tmp_path), "comparison")]
    assert labels == ["Local", "FedAvg", "FedProx", "FedPub, sparsity 0", "FedPub"]


@pytest.mark.slow
def test_clients_as_tasks_of_a_cluster_give_the_same_numbers(tmp_path):
    report = EXPERIMENTS["federated"](**SMALL, rules=("FedPub",), sparsities=(1e-3,), images="digits")
    run([report], tmp_path / "here", Local())
    run([report], tmp_path / "there", Ray(None))
    assert results(tmp_path / "here", report) == pytest.approx(results(tmp_path / "there", report))


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"graph": "a.npz", "images": "digits"}, "not both"),
        ({"rules": ("FedAvgg",)}, "FedAvgg"),
        ({"seeds": 0}, "got 0"),
        ({"images": "digitz"}, "digitz"),
    ],
)
def test_bad_flags_are_refused(flags, text):
    with pytest.raises(ValueError, match=text):
        EXPERIMENTS["federated"](**flags)


def test_a_missing_graph_is_refused_before_anything_runs(tmp_path):
    report = EXPERIMENTS["federated"](graph="cora.npz", **SMALL)
    with pytest.raises(ValueError, match="was not found"):
        run([report], tmp_path, Local(), data_root=tmp_path)
    assert not list(tmp_path.glob("federation-*"))
