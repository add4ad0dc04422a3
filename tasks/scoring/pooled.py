"""Accuracies of many networks on the same resamples of the same images, so that any of them can be compared.

Accuracy is linear in hits: hits are averaged over seeds first, image by image, and sums of accuracies have the sums
of their draws. Shapes: n images, one column per network.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from amalgam.tasks.scoring.metrics import DRAWS, Estimate, mean_over_sets, resamples


def pooled_accuracies(hits: Sequence[Tensor], draws: int = DRAWS, seed: int = 0) -> list[Estimate]:
    """The unweighted mean accuracy over test sets of each network, an estimate per column of `hits`.

    `hits` has a test set's (n, networks), in [0, 1]: the share of seeds that recognise the image. As in `estimate`,
    test sets of one size share their resamples, and so do calls with one seed.
    """
    by_set = [_estimates(of_set.double(), draws, seed) for of_set in hits]
    return [mean_over_sets(of_network) for of_network in zip(*by_set, strict=True)]


def weighted_sum(estimates: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
    """The sum of weighted estimates over the same resamples."""
    pairs = list(zip(estimates, weights, strict=True))
    drawn = torch.stack([weight * estimate.draws for estimate, weight in pairs]).sum(0)
    return Estimate(sum(weight * estimate.value for estimate, weight in pairs), drawn)


def _estimates(hits: Tensor, draws: int, seed: int) -> list[Estimate]:
    """The accuracy of each network on one test set."""
    drawn = torch.cat([weights @ hits for weights in resamples(len(hits), draws, seed)]) / len(hits)
    return [Estimate(value, column) for value, column in zip(hits.mean(0).tolist(), drawn.T, strict=True)]
