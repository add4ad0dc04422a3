"""Metrics are the official ones, resamples are paired, and no order of examples matters."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from amalgam.tasks.scoring.metrics import METRICS, Predictions, estimates, value

REGIONS = ("Asia", "Europe", "Other", "Oceania")


def predictions(seed: int = 0, count: int = 200, num_classes: int = 7, skill: float = 2.0) -> Predictions:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes - 1, (count,), generator=draw)  # the last class is only ever predicted
    logits = torch.randn(count, num_classes, generator=draw)
    logits[torch.arange(count), labels] += skill * torch.rand(count, generator=draw)
    said = Predictions.of(logits, labels, torch.arange(count))
    groups = torch.randint(-1, 3, (count,), generator=draw)
    return Predictions(**said.columns | {"groups": groups}, group_names=REGIONS)


def chosen(said: Predictions, rows: torch.Tensor) -> Predictions:
    return Predictions(**{name: column[rows] for name, column in said.columns.items()}, group_names=said.group_names)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 60))
def test_metrics_are_those_of_scikit_learn(seed, count):
    said = predictions(seed, count)
    truth, guess = said.labels.numpy(), said.classes.numpy()
    assert value(METRICS["accuracy"], said) == pytest.approx(accuracy_score(truth, guess))
    official = f1_score(truth, guess, average="macro", labels=np.unique(truth), zero_division=0)
    assert value(METRICS["macro_f1"], said) == pytest.approx(official)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(20, 60))
def test_the_worst_group_is_the_lowest_accuracy_of_a_region_but_other(seed, count):
    said = predictions(seed, count)
    hits = (said.labels == said.classes).double()
    by_hand = [hits[said.groups == group].mean().item() for group in (0, 1) if (said.groups == group).any()]
    assert value(METRICS["worst_group"], said) == pytest.approx(min(by_hand))


def test_likelihood_and_calibration_are_those_of_the_logits():
    labels = torch.randint(5, (400,), generator=torch.Generator().manual_seed(0))
    logits = 2 * torch.randn(400, 5, generator=torch.Generator().manual_seed(1))
    said = Predictions.of(logits, labels, torch.arange(400))
    error = multiclass_calibration_error(logits.double().softmax(1), labels, 5, n_bins=15, norm="l1").item()
    assert value(METRICS["calibration_error"], said) == pytest.approx(error, abs=1e-6)
    assert value(METRICS["nll"], said) == pytest.approx(log_loss(labels, logits.double().softmax(1)), abs=1e-6)
    assert (said.confidence <= 1).all()


@pytest.mark.parametrize("name", METRICS)
def test_the_order_of_examples_does_not_matter(name):
    said = predictions()
    shuffled = chosen(said, torch.randperm(200, generator=torch.Generator().manual_seed(1)))
    assert value(METRICS[name], shuffled) == pytest.approx(value(METRICS[name], said), rel=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_a_weight_is_how_often_an_example_occurs(name):
    said = predictions(count=40)
    times = torch.randint(4, (3, 40), generator=torch.Generator().manual_seed(2))
    repeated = [chosen(said, torch.arange(40).repeat_interleave(each)) for each in times]
    expected = [value(METRICS[name], one) for one in repeated]
    assert METRICS[name](said, times.double()).tolist() == pytest.approx(expected)


def test_the_bootstrap_interval_of_accuracy_is_the_normal_one():
    said = predictions(count=2000)
    found = estimates(METRICS["accuracy"], [said])[0]
    low, high = found.interval()
    error = (found.value * (1 - found.value) / 2000) ** 0.5
    # The width of a percentile interval of 1000 resamples varies by a few per cent.
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.1) and low < found.value < high


def test_a_network_is_not_ahead_of_itself():
    for metric in METRICS.values():
        ours, same = estimates(metric, [predictions(1), predictions(1)])
        difference = ours - same
        assert (difference.value, difference.interval()) == (0.0, (0.0, 0.0))


def test_pairs_are_surer_than_networks_on_their_own():
    said = predictions(count=500)
    better = Predictions(
        **said.columns | {"classes": said.labels.where(said.ids % 10 == 0, said.classes)}, group_names=REGIONS
    )
    both = estimates(METRICS["accuracy"], [better, said])
    low, high = (both[0] - both[1]).interval()
    alone = [np.subtract(*each.interval()) for each in both]
    assert low > 0 and high - low < -min(alone)


def test_resamples_follow_their_seed_alone():
    said = predictions()
    first, again, other = (estimates(METRICS["nll"], [said], draws=20, seed=seed)[0].draws for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_what_cannot_be_scored_is_refused():
    said = predictions()
    with pytest.raises(ValueError, match="examples"):
        estimates(METRICS["accuracy"], [said, chosen(said, torch.arange(10))])
    with pytest.raises(ValueError, match="lengths"):
        chosen(said, torch.arange(0))
    ungrouped = Predictions(**said.columns | {"groups": torch.full((200,), -1)})
    with pytest.raises(ValueError, match="worst_group"):
        value(METRICS["worst_group"], ungrouped)
    with pytest.raises(ValueError, match="group 2 "):
        Predictions(**said.columns)
