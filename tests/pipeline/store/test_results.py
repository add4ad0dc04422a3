"""Tables of results come back as they were written."""

import pytest

from amalgam.pipeline.store.tables.results import IDENTITY, RESULTS, SETTINGS, read_results, write_results
from amalgam.tasks.scoring.results import Network, Result

NETWORKS = (
    Network(kind="member", method="member", member=1, seed=2),
    Network(
        kind="fused",
        method="PartialOT",
        settings={"alpha": 0.4, "cost": "both"},
        weights=(0.3, 0.7),
        recalibrated=True,
        finetuned=True,
    ),
    Network(kind="fused", method="Mine", settings={"rounds": 3, "greedy": True}, weights=(0.5, 0.5)),
)


@pytest.mark.parametrize("networks", [NETWORKS, NETWORKS[:1]], ids=["settings of all kinds", "no settings"])
def test_results_come_back_as_written(networks, tmp_path):
    rows = [Result(network, "test", None, "accuracy", 0.5) for network in networks]
    rows += [Result(network, "seen", "bold", "nll", 1.5, 1.0, 2.0) for network in networks]
    write_results(rows, tmp_path)
    assert read_results(tmp_path) == rows
    assert [path.name for path in tmp_path.iterdir()] == [RESULTS]


def test_the_table_keeps_every_field_of_a_network():
    assert {*IDENTITY.names, SETTINGS} == set(Network.model_fields)


def test_damaged_absent_and_other_tables_are_refused(tmp_path):
    with pytest.raises(ValueError, match=RESULTS):
        read_results(tmp_path)
    write_results([Result(NETWORKS[0], "test", None, "accuracy", 0.5)], tmp_path)
    whole = (tmp_path / RESULTS).read_bytes()
    (tmp_path / RESULTS).write_bytes(whole[:-9])
    with pytest.raises(ValueError, match="damaged"):
        read_results(tmp_path)
