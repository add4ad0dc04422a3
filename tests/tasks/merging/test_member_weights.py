"""Rules of weights: non-negative, summing to 1, and the limits that each states."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amalgam import Average, merge
from amalgam.tasks.merging.statistics.staging import traces
from amalgam.tasks.merging.weights.providers import (
    MWA,
    FisherTrace,
    FunctionalSimilarity,
    Uniform,
    ValidationFitted,
    clusters,
)

losses = st.lists(st.floats(0.01, 10), min_size=1, max_size=8)
rules = st.sampled_from(["power", "softmax", "rank"])


@given(losses, rules, st.floats(0, 20))
def test_weights_of_checkpoints_are_shares_and_follow_the_loss(values, rule, penalty):
    shares = MWA(rule=rule, penalty=penalty)(values)
    assert sum(shares) == pytest.approx(1) and min(shares) >= 0
    for (one, a), (other, b) in (
        (x, y) for x in zip(values, shares, strict=True) for y in zip(values, shares, strict=True)
    ):
        assert a >= b - 1e-12 or one >= other
    backwards = MWA(rule=rule, penalty=penalty)(values[::-1])
    assert backwards[::-1] == pytest.approx(shares)


@given(losses, rules)
def test_penalty_zero_is_uniform(values, rule):
    assert MWA(rule=rule, penalty=0)(values) == pytest.approx(Uniform()(len(values)))


def test_power_rule_ignores_units_and_large_penalties_pick_the_best():
    values = [0.5, 0.2, 0.4, 0.2]
    assert MWA(penalty=2)(values) == pytest.approx(MWA(penalty=2)([10 * v for v in values]))
    assert MWA(penalty=1e4)(values) == pytest.approx((0, 0.5, 0, 0.5))
    assert MWA(by="step")([0, 10, 30]) == pytest.approx((0, 0.25, 0.75))
    assert MWA(by="metric")([0.2, 0.8]) == pytest.approx((0.2, 0.8))
    assert MWA()([0.2, 0.8]) == pytest.approx((0.8, 0.2))


@pytest.mark.parametrize("values", [[], [float("nan")], [1.0, float("inf")], [0.0, 1.0], [-1.0, 1.0]])
def test_losses_without_weights_are_refused(values):
    with pytest.raises(ValueError):
        MWA()(values)


def test_fisher_traces_are_shared_out():
    assert FisherTrace()([1, 3]) == pytest.approx((0.25, 0.75))
    for bad in ([0, 0], [-1, 2], [float("nan"), 1]):
        with pytest.raises(ValueError):
            FisherTrace()(bad)


def test_traces_weigh_members_by_all_their_fisher_information():
    first = {"a": torch.ones(2, 3), "b": torch.full((2,), 2.0)}
    assert traces([first]) == [10.0]
    assert FisherTrace()(traces([first, {name: 3 * one for name, one in first.items()}])) == pytest.approx((0.25, 0.75))


def planted():
    """Two groups of three members whose outputs on the probe point in two directions."""
    torch.manual_seed(0)
    centres = torch.eye(6, dtype=torch.float64)[[0, 0, 0, 1, 1, 1]]
    return list(centres + 0.05 * torch.randn(6, 6, dtype=torch.float64))


def test_rows_of_similarity_are_shares_uniform_at_zero_and_themselves_at_infinity():
    rows = torch.tensor(FunctionalSimilarity(temperature=3)(planted()))
    torch.testing.assert_close(rows.sum(1), torch.ones(6))
    torch.testing.assert_close(torch.tensor(FunctionalSimilarity(temperature=0)(planted())), torch.full((6, 6), 1 / 6))
    torch.testing.assert_close(torch.tensor(FunctionalSimilarity(temperature=1e6)(planted())), torch.eye(6))


def test_similarity_is_equivariant_ignores_lengths_and_ties_identical_members():
    points, order = planted(), [3, 1, 5, 0, 2, 4]
    rule = FunctionalSimilarity(temperature=4)
    rows = torch.tensor(rule(points))
    torch.testing.assert_close(torch.tensor(rule([points[p] for p in order])), rows[order][:, order])
    torch.testing.assert_close(torch.tensor(rule([7 * points[0], *points[1:]])), rows)
    same = torch.tensor(rule([points[0], points[0], points[3]]))
    torch.testing.assert_close(same[0], same[1])


def test_planted_clusters_are_found_and_get_no_weight_across():
    rows = torch.tensor(FunctionalSimilarity(temperature=30)(planted()))
    assert float(rows[:3, 3:].max()) < 1e-6
    assert clusters(planted(), 0.5) == ((0, 1, 2), (3, 4, 5))


def test_personalised_merges_of_planted_clusters_are_nearer_than_the_global_one():
    points = planted()
    members = [{"w": point} for point in points]
    everyone = merge(None, members, Average())["w"]
    for row, centre in zip(
        FunctionalSimilarity(temperature=30)(points), torch.eye(6).double()[[0, 0, 0, 1, 1, 1]], strict=True
    ):
        own = merge(None, members, Average(weights=row))["w"]
        assert (own - centre).norm() < (everyone - centre).norm() / 3


def test_fitted_weights_never_score_below_uniform_or_a_single_member():
    target = torch.tensor([0.7, 0.2, 0.1])

    def score(shares):
        return -float((torch.tensor(shares) - target).norm())

    found = ValidationFitted(draws=200)(3, score)
    assert score(found) > max(score(Uniform()(3)), *(score(tuple(row)) for row in torch.eye(3).tolist()))
    assert found == ValidationFitted(draws=200)(3, score)
