"""Scores agree with scikit-learn and with the definitions; ensembles are the means they say they are."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, recall_score
from torch import nn

from amalgam.tasks.data.catalogue import DataSpec
from amalgam.tasks.data.images import load
from amalgam.tasks.scoring.logits import logit_ensemble, predict, probability_ensemble, score


@pytest.fixture
def logits():
    return 3 * torch.randn(500, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels(logits):
    noisy = logits + 3 * torch.randn(500, 4, generator=torch.Generator().manual_seed(1))
    return noisy.argmax(1)


def calibration_error(probabilities, labels, bins=15):
    """Guo et al. (2017), eq. 3, term by term."""
    confidence, hits = probabilities.max(1), probabilities.argmax(1) == labels
    bin_of = np.ceil(confidence * bins).astype(int) - 1
    gaps = [abs((hits[bin_of == b] - confidence[bin_of == b]).sum()) for b in range(bins)]
    return sum(gaps) / len(labels)


def test_scores_agree_with_scikit_learn_and_the_definition(logits, labels):
    found, probabilities = score(logits, labels, 4), logits.double().softmax(1).numpy()
    truth, guess = labels.numpy(), logits.argmax(1).numpy()
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, guess))
    assert found["nll"] == pytest.approx(log_loss(truth, probabilities), rel=1e-5)
    for i, recall in enumerate(recall_score(truth, guess, average=None)):
        assert found[f"accuracy_class_{i}"] == pytest.approx(recall)
    assert found["calibration_error"] == pytest.approx(calibration_error(probabilities, truth), abs=1e-6)


def test_log_probabilities_score_as_their_logits(logits, labels):
    found, expected = score(logits.log_softmax(1), labels, 4), score(logits, labels, 4)
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_sure_network_is_scored_without_overflow():
    certain = 1e4 * torch.eye(3)
    assert score(certain, torch.arange(3), 3)["nll"] == 0
    assert score(certain, torch.tensor([1, 0, 2]), 3)["calibration_error"] == pytest.approx(2 / 3)


def test_a_class_without_examples_has_no_accuracy():
    found = score(torch.eye(3)[:2], torch.tensor([0, 1]), 3)
    assert "accuracy_class_2" not in found and found["accuracy_class_1"] == 1


def test_logits_of_other_labels_are_refused(logits):
    with pytest.raises(ValueError, match=r"\(7, 4\).*got \(500, 4\)"):
        score(logits, torch.zeros(7, dtype=torch.long), 4)


def test_ensembles_are_weighted_means(logits):
    other = logits.flip(0)
    torch.testing.assert_close(logit_ensemble([logits, other], (0.3, 0.7)), 0.3 * logits + 0.7 * other)
    mean = 0.3 * logits.softmax(1) + 0.7 * other.softmax(1)
    torch.testing.assert_close(probability_ensemble([logits, other], (0.3, 0.7)).exp(), mean)
    torch.testing.assert_close(logit_ensemble([logits, other, other]), (logits + 2 * other) / 3)


@pytest.mark.parametrize("ensemble", [logit_ensemble, probability_ensemble])
def test_all_weight_on_one_member_is_that_member(ensemble, logits):
    alone = ensemble([logits, 100 * logits.flip(0)], (1.0, 0.0))
    torch.testing.assert_close(alone.log_softmax(1), logits.log_softmax(1))


@pytest.mark.parametrize("weights", [(0.5, 0.6), (1.0,), (-0.5, 1.5), (float("nan"), 1.0)])
def test_weights_that_are_no_shares_are_refused(weights, logits):
    with pytest.raises(ValueError, match=r"weights.* 2 .*got"):
        logit_ensemble([logits, logits], weights)


def test_predictions_do_not_depend_on_the_batch_size_and_leave_the_mode():
    images = load(DataSpec(name="digits"), "test")
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, 10)).train()
    whole = predict(module, images, range(100), batch_size=100)
    torch.testing.assert_close(predict(module, images, range(100), batch_size=7), whole)
    assert module.training and whole.shape == (100, 10) and not whole.requires_grad
    assert module[1].num_batches_tracked == 0
