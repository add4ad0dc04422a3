"""Groups of latents found without names: those that distinguish domains, those that predict labels in one domain alone.

Both are tests of independence between "the latent is active" and a category, by the G statistic 2 n I, where I is the
mutual information in nats; the false discovery rate over all latents is controlled (Benjamini and Hochberg 1995).
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import chi2, false_discovery_control
from torch import Tensor
from torch.nn.functional import one_hot


@dataclass(frozen=True)
class Association:
    """How much each latent says of a category."""

    information: Tensor
    """(num_latents,), in nats."""
    significant: Tensor
    """(num_latents,) of bool: at the false discovery rate `rate`."""

    @property
    def latents(self) -> tuple[int, ...]:
        """The significant ones, those that say most first."""
        order = self.information.argsort(descending=True)
        return tuple(order[self.significant[order]].tolist())


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
    freedom = of_category.shape[1] - 1
    chances = chi2.sf(2 * len(active) * information.numpy(), freedom) if freedom else np.ones(len(information))
    return Association(information, torch.from_numpy(false_discovery_control(chances) <= rate))


def shortcuts(active: Tensor, labels: Tensor, domains: Tensor, rate: float = 0.05) -> tuple[int, ...]:
    """Latents that say something of the label inside exactly one domain: what may go with it there by accident."""
    found = [association(active[domains == one], labels[domains == one], rate).significant for one in domains.unique()]
    return tuple(torch.nonzero(torch.stack(found).sum(0) == 1).flatten().tolist())
