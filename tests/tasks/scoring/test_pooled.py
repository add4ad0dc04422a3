"""Many networks are compared at once exactly as two are compared by their predictions."""

import pytest
import torch

from amalgam.tasks.scoring.metrics import Predictions, accuracy, estimate, paired_difference
from amalgam.tasks.scoring.pooled import pooled_accuracies, weighted_sum


def predictions(seed: int, count: int) -> Predictions:
    draw = torch.Generator().manual_seed(seed)
    return Predictions.of(torch.randn(count, 3, generator=draw), torch.arange(count) % 3, torch.arange(count))


def hits(of_seeds: list[Predictions]) -> torch.Tensor:
    return torch.stack([(said.labels == said.classes).double() for said in of_seeds]).mean(0)


@pytest.fixture
def two_networks():
    """Per network two seeds, each on a set of 40 and one of 60 images."""
    return [
        [[predictions(100 * network + 10 * seed + n, n) for n in (40, 60)] for seed in range(2)] for network in (0, 1)
    ]


def test_one_seed_is_estimated_as_by_its_predictions(two_networks):
    found, *_ = pooled_accuracies([hits([said])[:, None] for said in two_networks[0][0]], draws=50, seed=3)
    by_hand = estimate(accuracy, two_networks[0][0], draws=50, seed=3)
    assert found.value == pytest.approx(by_hand.value)
    torch.testing.assert_close(found.draws, by_hand.draws)


def test_a_pooled_difference_is_the_paired_difference_over_all_seeds(two_networks):
    columns = [torch.stack([hits([seed[i] for seed in network]) for network in two_networks], 1) for i in range(2)]
    ours, theirs = pooled_accuracies(columns, draws=50)
    difference = ours - theirs
    by_hand = paired_difference(
        accuracy, *([said for seed in network for said in seed] for network in two_networks), draws=50
    )
    assert difference.value == pytest.approx(by_hand.value)
    torch.testing.assert_close(difference.draws, by_hand.draws)


def test_a_weighted_sum_is_that_of_values_and_of_draws(two_networks):
    ours, theirs = (estimate(accuracy, network[0], draws=20) for network in two_networks)
    mixed = weighted_sum([ours, theirs], [0.25, 0.75])
    assert mixed.value == pytest.approx(0.25 * ours.value + 0.75 * theirs.value)
    torch.testing.assert_close(mixed.draws, 0.25 * ours.draws + 0.75 * theirs.draws)


def test_a_network_is_as_good_as_itself_on_every_resample(two_networks):
    ours, same = pooled_accuracies([hits([two_networks[0][0][0]])[:, None].expand(-1, 2)], draws=20)
    assert (ours - same).interval() == (0, 0)
