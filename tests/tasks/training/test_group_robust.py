"""Training for the worst group: weights follow losses, images are repeated or balanced as said."""

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from amalgam.tasks.data.loading import Batch
from amalgam.tasks.training.config import GroupDRO
from amalgam.tasks.training.group_robust import GroupWeighted, balanced, repeated

GROUPS = torch.tensor([0, 0, 1, 1, 1, 2])


def batch():
    generator = torch.Generator().manual_seed(0)
    return Batch(torch.arange(6), torch.randn(6, 4, generator=generator), torch.tensor([0, 1, 2, 0, 1, 2]))


def network():
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def test_the_loss_is_the_weighted_sum_of_group_means_after_their_weights_rose():
    module, data, method = network(), batch(), GroupDRO(step_size=0.5)
    _, loss = GroupWeighted(method, GROUPS)(module, data, 1)
    losses = cross_entropy(module(data.images), data.labels, reduction="none")
    means = torch.stack([losses[group == GROUPS].mean() for group in range(3)])
    weights = (0.5 * means).exp() / (0.5 * means).exp().sum()  # from equal ones
    torch.testing.assert_close(loss, (weights * means).sum())


def test_the_weight_goes_to_the_group_with_the_largest_loss_and_comes_back_with_the_state():
    objective, module, data = GroupWeighted(GroupDRO(step_size=1.0), GROUPS), network(), batch()
    for _ in range(200):
        objective(module, data, 1)
    losses = cross_entropy(module(data.images), data.labels, reduction="none")
    worst = torch.stack([losses[group == GROUPS].mean() for group in range(3)]).argmax()
    assert objective.weights.argmax() == worst and objective.weights.max() > 0.99
    other = GroupWeighted(GroupDRO(step_size=1.0), GROUPS)
    other.restore(objective.state())
    assert torch.equal(other.weights, objective.weights)


def test_errors_are_repeated_and_nothing_is_lost():
    indices = np.array([3, 5, 8, 9])
    found = repeated(indices, np.array([True, False, False, True]), 4)
    assert np.array_equal(found, [3, 3, 3, 3, 5, 8, 9, 9, 9, 9])


def test_groups_are_balanced_by_the_smallest():
    indices, groups = np.arange(100, 160), np.repeat([0, 1, 4], [40, 15, 5])
    found = balanced(indices, groups, seed=1)
    assert np.bincount(groups[found - 100]).tolist() == [5, 5, 0, 0, 5] and len(set(found)) == 15
