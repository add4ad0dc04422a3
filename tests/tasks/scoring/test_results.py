"""Rows of results: identities that tell networks apart, flat names that are derived and unique, means over seeds."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from amalgam.tasks.fusion import Assignment, Identity, PartialOT
from amalgam.tasks.scoring.results import Network, Result, flat, results_frame, settings_of
from amalgam.tasks.scoring.seeds import over_seeds


def fused(method, **changed) -> Network:
    return Network(kind="fused", method=type(method).__name__, settings=settings_of(method), **changed)


def test_settings_are_those_that_were_chosen():
    assert settings_of(Identity()) == {} == settings_of(Assignment())
    assert settings_of(PartialOT(alpha=0.0)) == {"alpha": 0.0}
    assert settings_of(PartialOT(alpha=0.4, cost="both")) == {"alpha": 0.4, "cost": "both"}


def test_networks_that_differ_in_anything_but_the_seed_have_other_labels_and_are_other_keys():
    networks = [
        fused(Identity()),
        fused(Assignment()),
        fused(Assignment(cost="activations")),
        fused(PartialOT(alpha=0.4)),
        fused(PartialOT(alpha=0.5)),
        fused(PartialOT(alpha=0.5), recalibrated=True),
        fused(PartialOT(alpha=0.5), finetuned=True),
        Network(kind="member", method="member", member=1),
    ]
    assert len({network.label for network in networks}) == len(set(networks)) == len(networks)
    assert networks[0].model_copy(update={"seed": 3}).over_seeds == networks[0]


def test_flat_names_are_one_for_each_row():
    path = Network(kind="classifier", method="l2", settings={"strength": 30.0})
    rows = [
        Result(path.with_setting("alpha", alpha), role, test_set, metric, value)
        for alpha in (0.0, 0.5)
        for value, (role, test_set) in enumerate((("seen", None), ("seen", "bold"), ("id", None)))
        for metric in ("accuracy", "nll")
    ]
    names = flat(rows, by=("alpha",))
    assert len(names) == len(rows)
    assert flat([Result(path, "seen", None, "accuracy_gain", 0.1)]) == {}
    assert names["seen/accuracy@alpha=0.5"] == 0 and names["set/bold/nll@alpha=0"] == 1


def test_a_frame_groups_by_network_over_seeds():
    rows = [
        Result(Network(kind="member", method="member", member=m, seed=seed), "test", None, "accuracy", m + 0.1 * seed)
        for m in (0, 1)
        for seed in range(3)
    ]
    means = results_frame(rows).groupby(["network", "measure"], sort=False)["value"].mean()
    assert means.tolist() == pytest.approx([0.1, 1.1])


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9).filter(lambda values: np.std(values) > 1e-6))
def test_intervals_over_seeds_are_those_of_students_t(values):
    found = over_seeds(values)
    low, high = scipy.stats.t.interval(0.95, len(values) - 1, np.mean(values), scipy.stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert (found.mean, found.std) == pytest.approx((np.mean(values), np.std(values, ddof=1)))


def test_one_seed_has_no_interval():
    assert (over_seeds([0.5]).std, over_seeds([0.5]).low, over_seeds([0.5]).is_sure) == (None, None, False)
