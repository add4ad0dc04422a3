"""Accuracies of many networks on the same resamples of the same images and seeds, so that any can be compared.

A resample draws seeds, and what images were made from (digits, subjects, cameras; else the images themselves): an image
counts as often as all its sources were drawn together (the pigeonhole bootstrap of Owen, 2007), in every style and
every seed alike. Shapes: n images, one column per network.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from amalgam.tasks.scoring.metrics import DRAWS, Estimate, resamples


@dataclass(frozen=True)
class Hits:
    """What the networks of one seed recognise of one test set."""

    hits: Tensor
    """Zeros and ones, (n, networks)."""
    sources: Tensor | None = None
    """Numbers of what each image was made from, int64, (n, sources); None where every image is its own."""

    @property
    def clusters(self) -> Tensor:
        """The sources, (n, sources)."""
        return torch.arange(len(self.hits))[:, None] if self.sources is None else self.sources


def pooled_accuracies(
    sets: Sequence[Sequence[Hits]], draws: int = DRAWS, seed: int = 0, num_sources: int | None = None
) -> list[Estimate]:
    """The unweighted mean accuracy over test sets and seeds of each network, an estimate per column of the hits.

    `sets` has for each test set the hits of every seed. Calls with one seed and number of sources share their
    resamples. With a single seed the estimate leaves out the chance of training.
    """
    size = num_sources or sources_in(sets)
    drawn = torch.stack([_drawn(of_set, size, draws, seed) for of_set in sets]).mean(0)
    values = torch.stack([torch.stack([one.hits.double().mean(0) for one in of_set]).mean(0) for of_set in sets])
    return [Estimate(value, column) for value, column in zip(values.mean(0).tolist(), drawn.T, strict=True)]


def sources_in(sets: Sequence[Sequence[Hits]]) -> int:
    """One more than the largest number of a source."""
    return 1 + max(int(one.clusters.max()) for of_set in sets for one in of_set)


def weighted_sum(estimates: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
    """The sum of weighted estimates over the same resamples."""
    pairs = list(zip(estimates, weights, strict=True))
    drawn = torch.stack([weight * estimate.draws for estimate, weight in pairs]).sum(0)
    return Estimate(sum(weight * estimate.value for estimate, weight in pairs), drawn)


def _drawn(of_set: Sequence[Hits], size: int, draws: int, seed: int) -> Tensor:
    """The mean over resampled seeds and images of one test set, (draws, networks)."""
    by_seed = torch.stack([_accuracies(one, size, draws, seed) for one in of_set], 1)
    return torch.einsum("dsn,ds->dn", by_seed, _seed_weights(len(of_set), draws, seed))


def _accuracies(one: Hits, size: int, draws: int, seed: int) -> Tensor:
    """The accuracies of one seed on resampled images, (draws, networks)."""
    parts, hits, sources = [], one.hits.double(), one.clusters
    # An image made of one source twice counts once as often as that one was drawn.
    repeats = [(sources[:, place, None] == sources[:, :place]).any(1) for place in range(sources.shape[1])]
    for drawn in resamples(size, draws, seed):
        weights = torch.ones(len(drawn), len(hits), dtype=torch.float64)
        for place, repeated in enumerate(repeats):
            weights *= drawn[:, sources[:, place]].masked_fill(repeated, 1)
        parts.append((weights @ hits) / weights.sum(1, keepdim=True).clamp(min=1))
    return torch.cat(parts)


def _seed_weights(count: int, draws: int, seed: int) -> Tensor:
    """What each seed counts in each resample, (draws, seeds); they sum to 1.

    Resampling S seeds gives (S - 1) / S of the variance of their mean, so that weights are spread by the root of the
    inverse; one seed alone cannot be resampled.
    """
    if count == 1:
        return torch.ones(draws, 1, dtype=torch.float64)
    drawn = torch.cat(list(resamples(count, draws, seed + 1))) / count
    return 1 / count + (drawn - 1 / count) * (count / (count - 1)) ** 0.5
