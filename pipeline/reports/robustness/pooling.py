"""Accuracies of the networks of a robustness report, pooled over seeds and resampled image by image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from amalgam.pipeline.reports.files import Row, points
from amalgam.pipeline.reports.robustness.table import OVERALL, Tested, WisePath, overall_weights
from amalgam.pipeline.store.tables.predictions import PREDICTIONS, read_predictions
from amalgam.tasks.clip.testing.test_sets import ROLES
from amalgam.tasks.scoring.metrics import Estimate, Predictions, same_examples
from amalgam.tasks.scoring.pooled import pooled_accuracies, weighted_sum

Network = tuple[str, float | None, float]
"""Variant, strength, alpha."""


@dataclass(frozen=True)
class Difference:
    """How far one network is ahead of another, as a share of images, and how sure that is."""

    value: float
    low: float
    high: float
    """Ends of the 95 % interval over resampled test images; the seeds are as they are."""
    num_ahead: int
    """Seeds in which it is ahead."""
    num_seeds: int

    @property
    def is_sure(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{points(self.value)} [{points(self.low)}, {points(self.high)}]"


@dataclass(frozen=True)
class PooledAccuracies:
    """What every compared network scored: by role over resamples, and by seed."""

    by_role: Mapping[str, Mapping[Network, Estimate]]
    by_seed: Mapping[Network, Sequence[Mapping[str, float]]]

    def difference(self, role: str, ours: Network, theirs: Network) -> Difference:
        """Ours minus theirs on the same images, in a role or `OVERALL`."""
        pooled = self.by_role[role][ours] - self.by_role[role][theirs]
        pairs = zip(self.by_seed[ours], self.by_seed[theirs], strict=True)
        ahead = [a[f"{role}/accuracy"] > b[f"{role}/accuracy"] for a, b in pairs]
        low, high = pooled.interval()
        return Difference(pooled.value, low, high, sum(ahead), len(ahead))


def network_of(row: Row) -> Network:
    """Which network a row is of."""
    return row["variant"], row["strength"], row["alpha"]


def pooled(paths: Sequence[WisePath], networks: Sequence[Network]) -> PooledAccuracies:
    """Read the predictions of some networks of whole paths, every seed of them."""
    seeds = sorted({path.seed for path in paths})
    found = {(path.variant, path.strength, path.seed): path.by_alpha for path in paths}
    tested = {(v, s, a): [found[v, s, seed][a] for seed in seeds] for v, s, a in networks}
    by_role: dict[str, dict[Network, Estimate]] = {}
    for role, hits in _mean_hits(list(tested), list(zip(*tested.values(), strict=True))).items():
        by_role[role] = dict(zip(tested, pooled_accuracies(hits), strict=True))
    if weights := overall_weights(by_role):
        parts = {network: [by_role[role][network] for role in weights] for network in tested}
        by_role[OVERALL] = {network: weighted_sum(parts[network], list(weights.values())) for network in tested}
    return PooledAccuracies(by_role, {network: [t.scores for t in of_seeds] for network, of_seeds in tested.items()})


def _mean_hits(networks: Sequence[Network], by_seed: Sequence[Sequence[Tested]]) -> dict[str, list[Tensor]]:
    """For each role its test sets' hits (n, networks), the mean over seeds."""
    every = [_hits(networks, [tested.folder for tested in of_seed]) for of_seed in by_seed]
    by_role: dict[str, list[Tensor]] = {}
    for role, name in every[0]:
        of_seeds = [hits[role, name] for hits in every if (role, name) in hits]
        if len({len(hits) for hits in of_seeds}) > 1 or len(of_seeds) < len(every):
            raise ValueError(f"test set {name!r} has other sizes for other seeds: their images cannot be paired")
        by_role.setdefault(role, []).append(torch.stack(of_seeds).double().mean(0))
    return by_role


def _hits(networks: Sequence[Network], folders: Sequence[Path]) -> dict[tuple[str, str], Tensor]:
    """What networks of one seed recognise, bool (n, networks), by role and test set; each file is read once."""
    names = [f"alpha={alpha:g}" for *_, alpha in networks]
    columns: dict[tuple[Path, str, str], Tensor] = {}
    tested: dict[tuple[str, str], Predictions] = {}
    for folder in dict.fromkeys(folders):
        wanted = {name for name, of_network in zip(names, folders, strict=True) if of_network == folder}
        for answers in read_predictions(folder / PREDICTIONS, wanted):
            said = answers.predictions
            if answers.role not in ROLES:
                continue  # held-out images chose, and judge nothing
            if not same_examples(tested.setdefault((answers.role, answers.test_set), said), said):
                raise ValueError(f"{folder} was tested on other images of {answers.test_set!r} than other networks")
            columns[folder, answers.network, answers.test_set] = said.labels == said.classes
    places = list(zip(folders, names, strict=True))
    if lacking := [
        folder for _, name in tested for folder, network in places if (folder, network, name) not in columns
    ]:
        raise ValueError(f"{lacking[0]} was not tested on all that other networks were tested on")
    return {key: torch.stack([columns[*place, key[1]] for place in places], dim=1) for key in tested}
