"""Many networks are compared at once exactly as two are compared by their predictions; resamples keep sources whole."""

import numpy as np
import pytest
import torch

from amalgam.tasks.scoring.metrics import Predictions, accuracy, estimates, mean_over_sets
from amalgam.tasks.scoring.pooled import Hits, pooled_accuracies, weighted_sum


def predictions(seed: int, count: int) -> Predictions:
    draw = torch.Generator().manual_seed(seed)
    return Predictions.of(torch.randn(count, 3, generator=draw), torch.arange(count) % 3, torch.arange(count))


def hits(*networks: Predictions) -> Hits:
    return Hits(torch.stack([(said.labels == said.classes).double() for said in networks], 1))


@pytest.fixture
def two_networks():
    """Per network one set of 40 and one of 40 images."""
    return [[predictions(100 * network + n, 40) for n in range(2)] for network in (0, 1)]


def test_one_seed_is_estimated_as_by_its_predictions(two_networks):
    found, *_ = pooled_accuracies([[hits(said)] for said in two_networks[0]], draws=50, seed=3)
    by_hand = mean_over_sets([estimates(accuracy, [said], draws=50, seed=3)[0] for said in two_networks[0]])
    assert found.value == pytest.approx(by_hand.value)
    torch.testing.assert_close(found.draws, by_hand.draws)


def test_a_pooled_difference_is_the_paired_difference(two_networks):
    ours, theirs = pooled_accuracies([[hits(*pair)] for pair in zip(*two_networks, strict=True)], draws=50)
    pairs = [estimates(accuracy, pair, draws=50) for pair in zip(*two_networks, strict=True)]
    by_hand = mean_over_sets([one - other for one, other in pairs])
    assert (ours - theirs).value == pytest.approx(by_hand.value)
    torch.testing.assert_close((ours - theirs).draws, by_hand.draws)


def test_a_weighted_sum_is_that_of_values_and_of_draws(two_networks):
    ours, theirs = estimates(accuracy, [network[0] for network in two_networks], draws=20)
    mixed = weighted_sum([ours, theirs], [0.25, 0.75])
    assert mixed.value == pytest.approx(0.25 * ours.value + 0.75 * theirs.value)
    torch.testing.assert_close(mixed.draws, 0.25 * ours.draws + 0.75 * theirs.draws)


def test_a_network_is_as_good_as_itself_on_every_resample(two_networks):
    ours, same = pooled_accuracies([[hits(two_networks[0][0], two_networks[0][0])] * 3], draws=20)
    assert (ours - same).interval() == (0, 0)


def test_pictures_of_one_source_are_drawn_together():
    whole = torch.rand(100, 1, generator=torch.Generator().manual_seed(0)) < 0.5
    once = pooled_accuracies([[Hits(whole)]], draws=400)[0]
    tenfold = Hits(whole.repeat_interleave(10, 0), torch.arange(100).repeat_interleave(10)[:, None])
    torch.testing.assert_close(pooled_accuracies([[tenfold]], draws=400)[0].draws, once.draws)
    independent = pooled_accuracies([[Hits(tenfold.hits)]], draws=400)[0]
    assert once.draws.std() > 2.5 * independent.draws.std()


def test_the_deviation_of_pairs_is_that_of_drawing_digits_anew():
    """An outside truth: digits, each hard or easy, are drawn anew, and pictures of two of them with them."""
    generator = np.random.default_rng(0)
    digits, pictures = 60, 2000

    def tested() -> Hits:
        ease = generator.random(digits)
        chosen = generator.integers(digits, size=(pictures, 2))
        found = generator.random(pictures) < ease[chosen].prod(1)
        return Hits(torch.from_numpy(found)[:, None], torch.from_numpy(chosen))

    truth = np.std([tested().hits.double().mean().item() for _ in range(400)])
    found = np.mean([pooled_accuracies([[tested()]], draws=200)[0].draws.std().item() for _ in range(10)])
    assert found == pytest.approx(truth, rel=0.25)


def test_randomness_of_training_widens_intervals_as_its_deviation_says():
    """Where seeds differ by far more than images do, the mean deviates as they do over the root of their number."""
    rates = np.linspace(0.2, 0.8, 5)
    seeds = [Hits((torch.arange(2000) < 2000 * rate)[torch.randperm(2000)][:, None]) for rate in rates]
    found = pooled_accuracies([seeds], draws=2000)[0]
    assert found.draws.std().item() == pytest.approx(np.std(rates, ddof=1) / 5**0.5, rel=0.1)
    assert found.value == pytest.approx(0.5)
