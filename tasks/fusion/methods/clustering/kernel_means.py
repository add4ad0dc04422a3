"""Clustering of units from the products of their activations alone: distances to means need no activations."""

import numpy as np
import torch
from scipy.cluster.hierarchy import linkage
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import squareform
from torch import Tensor
from torch.nn.functional import one_hot

MAX_ROUNDS = 100
TINY = 1e-30
NUM_CANDIDATES = 5  # pairs among which a random merge is drawn


def ward(gram: Tensor, num_clusters: int) -> Tensor:
    """(units,) labels from 0: Ward's clusters of the points whose inner products are `gram`."""
    if num_clusters >= len(gram):
        return torch.arange(len(gram))
    squares = gram.diagonal()
    distances = (squares[:, None] + squares[None, :] - 2 * gram).clamp_min(0).sqrt()
    tree = linkage(squareform(distances.numpy(), checks=False), "ward")
    return torch.from_numpy(_cut(tree, len(gram), num_clusters))


def lloyd(gram: Tensor, labels: Tensor, mass: Tensor | None = None) -> Tensor:
    """The labels after units moved to the nearest mean until none does; the squared distances never rise.

    With `mass` (units,), means and the sum of squared distances are weighted by it.
    """
    for _ in range(MAX_ROUNDS):
        distances = distances_to_means(gram, labels, mass=mass)
        moved = distances.argmin(1)
        # A unit moves only to a mean that is nearer, or two equally near means could exchange it for ever.
        stays = distances.gather(1, labels[:, None])[:, 0] <= distances.min(1).values + TINY
        moved = torch.where(stays, labels, moved)
        moved = moved.unique(return_inverse=True)[1]
        if torch.equal(moved, labels):
            break
        labels = moved
    return labels


def constrained(gram: Tensor, labels: Tensor, num_clusters: int, counts: tuple[int, ...]) -> Tensor:
    """k-means with at most one unit of each member in a cluster: each member's units are assigned at least cost."""
    if num_clusters < max(counts):
        raise ValueError(f"one unit per member needs at least {max(counts)} clusters, got {num_clusters}: raise width")
    start, best = labels, None
    for _ in range(MAX_ROUNDS):
        distances = distances_to_means(gram, start, num_clusters).split(list(counts))
        found = torch.cat([torch.from_numpy(linear_sum_assignment(part.numpy())[1]) for part in distances])
        error = float(distances_to_means(gram, found, num_clusters).gather(1, found[:, None]).sum())
        if best is not None and error >= best[0] - TINY:
            break
        best, start = (error, found), found
    assert best
    return best[1]


def stochastic_ward(gram: Tensor, num_clusters: int, num_restarts: int, seed: int) -> Tensor:
    """Of Ward's clusters and `num_restarts` random agglomerations, each improved by `lloyd`, the tightest."""
    generator = np.random.default_rng(seed)
    starts = [ward(gram, num_clusters)]
    if num_clusters < len(gram):
        starts += [torch.from_numpy(_random_agglomeration(gram, num_clusters, generator)) for _ in range(num_restarts)]
    found = [lloyd(gram, labels) for labels in starts]
    return min(found, key=lambda labels: float(distances_to_means(gram, labels).gather(1, labels[:, None]).sum()))


def distances_to_means(
    gram: Tensor, labels: Tensor, num_clusters: int | None = None, mass: Tensor | None = None
) -> Tensor:
    """(units, clusters) squared distances to the means, weighted by `mass` (units,) if given.

    An empty cluster is as far away as its points could be.
    """
    # |x - m|^2 = <x, x> - 2 <x, m> + <m, m>; a mean m is a sum of units, so that products of units are enough.
    members = one_hot(labels, num_clusters or -1).to(gram)
    members = members if mass is None else members * mass.to(gram)[:, None]
    counts = members.sum(0)
    means = members / torch.where(counts > 0, counts, 1)
    products = gram @ means
    squares = (means * products).sum(0)
    distances = gram.diagonal()[:, None] - 2 * products + squares[None, :]
    return torch.where(counts > 0, distances.clamp_min(0), gram.diagonal()[:, None])


def scales(gram: Tensor, labels: Tensor) -> Tensor:
    """(units,): the multiple of its cluster's mean that is closest to each unit."""
    means = one_hot(labels).to(gram) / one_hot(labels).sum(0)
    products = gram @ means
    squares = (means * products).sum(0)
    return products.gather(1, labels[:, None])[:, 0] / squares[labels].clamp_min(TINY)


def _random_agglomeration(gram: Tensor, num_clusters: int, generator: np.random.Generator) -> np.ndarray:
    """Labels after merges, each drawn among the cheapest by a softmax whose temperature is their mean excess cost."""
    squares, num_points = gram.diagonal(), len(gram)
    costs = ((squares[:, None] + squares[None, :] - 2 * gram).clamp_min(0) / 2).numpy()
    np.fill_diagonal(costs, np.inf)
    labels, sizes = np.arange(num_points), np.ones(num_points)
    for _ in range(num_points - num_clusters):
        nearest = costs.min(1)
        rows = np.argsort(nearest)[: 2 * NUM_CANDIDATES]  # a pair of nearest neighbours appears in both of its rows
        excess = nearest[rows[np.isfinite(nearest[rows])]] - nearest[rows[0]]
        odds = np.exp(-excess / max(excess.mean(), TINY))
        one = int(generator.choice(rows[: len(odds)], p=odds / odds.sum()))
        two = int(costs[one].argmin())
        # Ward's update (Lance & Williams 1967): what it costs to join the union with each other cluster.
        total = sizes[one] + sizes[two] + sizes
        joined = (sizes[one] + sizes) * costs[one] + (sizes[two] + sizes) * costs[two] - sizes * costs[one, two]
        costs[one], costs[:, one] = joined / total, joined / total
        costs[two], costs[:, two], costs[one, one] = np.inf, np.inf, np.inf
        sizes[one] += sizes[two]
        labels[labels == two] = one
    return np.unique(labels, return_inverse=True)[1]


def _cut(tree: np.ndarray, num_points: int, num_clusters: int) -> np.ndarray:
    """Labels after the first merges of the tree, exactly `num_clusters` of them even among ties."""
    labels, members = np.arange(num_points), {i: [i] for i in range(num_points)}
    for step in range(num_points - num_clusters):
        one, two = (int(node) for node in tree[step, :2])
        members[num_points + step] = members.pop(one) + members.pop(two)
    for label, points in enumerate(members.values()):
        labels[points] = label
    return labels
