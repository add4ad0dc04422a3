"""Groups of latents: those that carry a name, distinguish domains, or predict labels in one domain alone.

The last two are tests of independence between "the latent is active" and a category, by the G statistic 2 n I, where I
is the mutual information in nats; the false discovery rate over all latents is controlled (Benjamini, Hochberg 1995).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import chi2, false_discovery_control
from torch import Tensor
from torch.nn.functional import one_hot

from amalgam.tasks.explain.names import Names
from amalgam.tasks.explain.significance import discovery_rates, mcnemar
from amalgam.tasks.user_names import unknown_name


@dataclass(frozen=True)
class Association:
    """How much each latent says of a category."""

    information: Tensor
    """(num_latents,), in nats."""
    significant: Tensor
    """(num_latents,) of bool: at the false discovery rate `rate`."""
    entropy: float
    """Of the categories, in nats: the upper bound of `information`."""

    @property
    def latents(self) -> tuple[int, ...]:
        """The significant ones, those that say most first."""
        order = self.information.argsort(descending=True)
        return tuple(order[self.significant[order]].tolist())

    @property
    def share(self) -> Tensor:
        """The share of all there is to say, (num_latents,) in [0, 1]."""
        return self.information / max(self.entropy, 1e-12)


def association(active: Tensor, categories: Tensor, rate: float = 0.05) -> Association:
    """What each latent's activity (examples, num_latents) says of the examples' categories (examples,), as integers.

    Memory is latents x categories. Raises ValueError for a rate outside (0, 1) or shapes that do not fit.
    """
    if active.ndim != 2 or len(active) != len(categories) or not 0 < rate < 1:
        raise ValueError(
            "activity must be (examples, latents) with a category for each example, and the rate between 0 and 1, "
            f"got {tuple(active.shape)}, {tuple(categories.shape)} and {rate}"
        )
    categories = torch.unique(categories, return_inverse=True)[1]
    of_category = one_hot(categories).double()
    on = active.double().T @ of_category
    joint = torch.stack([on, of_category.sum(0) - on]) / len(active)  # (2, latents, categories)
    expected = joint.sum(0, keepdim=True) * joint.sum(2, keepdim=True)
    information = torch.special.xlogy(joint, joint / expected.clamp_min(1e-300)).sum((0, 2)).clamp_min(0)
    # Under independence 2 n I is chi-squared with (2 - 1) (categories - 1) degrees of freedom.
    freedom = of_category.shape[1] - 1
    chances = chi2.sf(2 * len(active) * information.numpy(), freedom) if freedom else np.ones(len(information))
    shares = of_category.mean(0)
    entropy = -torch.special.xlogy(shares, shares).sum().item()
    return Association(information, torch.from_numpy(false_discovery_control(chances) <= rate), entropy)


def of_domains(active: Tensor, domains: Tensor, labels: Tensor, rate: float = 0.05) -> tuple[int, ...]:
    """Latents that distinguish domains, and these more than labels: the task's own latents stay free."""
    domain, label = association(active, domains, rate), association(active, labels, rate)
    return tuple(torch.nonzero(domain.significant & (domain.share > label.share)).flatten().tolist())


def of_one_set(
    active: Tensor, labels: Tensor, others: Tensor, other_labels: Tensor, rate: float = 0.05
) -> tuple[int, ...]:
    """Latents that say of the label in one set at least twice what they say of it in other images."""
    here, there = association(active, labels, rate), association(others, other_labels, rate)
    return tuple(torch.nonzero(here.significant & (here.share > 2 * there.share)).flatten().tolist())


def added(before: Tensor, after: Tensor, rate: float = 0.05) -> tuple[int, ...]:
    """Latents that became active in more images (examples, num_latents) than they left, beyond chance (McNemar)."""
    came, went = ((new & ~old).sum(0).double() for new, old in ((after, before), (before, after)))
    return tuple(torch.nonzero((came > went) & (discovery_rates(mcnemar(came, went)) <= rate)).flatten().tolist())


def named_latents(names: Names, words: Sequence[str]) -> tuple[int, ...]:
    """Latents whose name is one of some words. Raises ValueError, with near names, for a word that none carries."""
    by_word: dict[str, list[int]] = {}
    for latent in torch.nonzero(names.named).flatten().tolist():
        by_word.setdefault(names.name(latent), []).append(latent)
    if unknown := [word for word in words if word not in by_word]:
        raise unknown_name("latent named", unknown[0], by_word)
    return tuple(sorted(latent for word in words for latent in by_word[word]))


def directions(features: Tensor, activations: Tensor) -> Tensor:
    """Mean unit feature of the images that activate a latent, by activation, less that of all, (num_latents, width)."""
    weights = activations.double().clamp(min=0)
    means = weights.T @ features.double() / weights.sum(0).clamp(min=1e-12)[:, None]
    return means - features.double().mean(0)
