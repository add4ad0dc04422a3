"""Paired comparisons: accuracies of many networks, averaged over seeds and resampled example by example."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from amalgam.tasks.scoring.metrics import Estimate
from amalgam.tasks.scoring.pooled import Hits, pooled_accuracies, sources_in, weighted_sum
from amalgam.tasks.scoring.seeds import OverSeeds, over_seeds

Key = TypeVar("Key", bound=Hashable)
OVERALL = "overall"
"""Mean of in-distribution accuracy and of the mean over the kinds of shift: one number where one is needed."""
HOME, SHIFTS = "id", ("seen", "unseen", "natural")


@dataclass(frozen=True)
class Difference:
    """How far one network is ahead of another, as a share of images, with two measures of uncertainty."""

    value: float
    low: float
    high: float
    """Ends of the 95 % interval of a paired bootstrap over what test images were made from, and over seeds."""
    seeds: OverSeeds
    """The same difference in each seed, with its interval by Student's t, which includes the randomness of training."""
    num_ahead: int
    """Seeds in which it is ahead."""

    @property
    def is_sure(self) -> bool:
        """Whether the interval leaves out 0; never of one seed, whose interval leaves out the chance of training."""
        return self.seeds.num_seeds > 1 and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class PooledAccuracies(Generic[Key]):
    """What every compared network scored: by role over resamples, and by role in each seed."""

    by_role: Mapping[str, Mapping[Key, Estimate]]
    by_seed: Mapping[str, Mapping[Key, Sequence[float]]]

    def difference(self, role: str, ours: Key, theirs: Key) -> Difference:
        """Ours minus theirs on the same images, in a role or `OVERALL`."""
        pooled = self.by_role[role][ours] - self.by_role[role][theirs]
        by_seed = [a - b for a, b in zip(self.by_seed[role][ours], self.by_seed[role][theirs], strict=True)]
        low, high = pooled.interval()
        return Difference(pooled.value, low, high, over_seeds(by_seed), sum(lead > 0 for lead in by_seed))


def overall_weights(roles: Sequence[str]) -> dict[str, float]:
    """What each role counts in `OVERALL`; empty unless there are both in-distribution and shifted images."""
    shifts = [role for role in SHIFTS if role in roles]
    return {HOME: 0.5} | {role: 0.5 / len(shifts) for role in shifts} if shifts and HOME in roles else {}


def pool(hits: Mapping[tuple[str, str], Sequence[Hits]], networks: Sequence[Key]) -> PooledAccuracies[Key]:
    """Accuracies by role of networks that were tested on the same images.

    `hits` has by role and test set what was recognised in each seed. Raises ValueError for a test set that some seed
    lacks.
    """
    num_seeds = max((len(of_seeds) for of_seeds in hits.values()), default=0)
    sets: dict[str, list[Sequence[Hits]]] = {}
    for (role, name), of_seeds in hits.items():
        if len(of_seeds) < num_seeds:
            raise ValueError(f"test set {name!r} was tested with {len(of_seeds)} seeds, others with {num_seeds}")
        sets.setdefault(role, []).append(of_seeds)
    size = sources_in(list(hits.values()))
    by_role = {
        role: dict(zip(networks, pooled_accuracies(of_role, num_sources=size), strict=True))
        for role, of_role in sets.items()
    }
    by_seed = {role: _by_seed(of_role, networks) for role, of_role in sets.items()}
    if weights := overall_weights(list(by_role)):
        shares = list(weights.values())
        by_role[OVERALL] = {key: weighted_sum([by_role[role][key] for role in weights], shares) for key in networks}
        by_seed[OVERALL] = {key: _mixed([by_seed[role][key] for role in weights], shares) for key in networks}
    return PooledAccuracies(by_role, by_seed)


def _by_seed(sets: Sequence[Sequence[Hits]], networks: Sequence[Key]) -> dict[Key, list[float]]:
    """The unweighted mean accuracy over test sets in each seed."""
    accuracy = torch.stack([torch.stack([one.hits.double().mean(0) for one in of_set]) for of_set in sets]).mean(0)
    return dict(zip(networks, accuracy.T.tolist(), strict=True))


def _mixed(by_seed: Sequence[Sequence[float]], weights: Sequence[float]) -> list[float]:
    return [sum(w * value for w, value in zip(weights, of_seed, strict=True)) for of_seed in zip(*by_seed, strict=True)]
