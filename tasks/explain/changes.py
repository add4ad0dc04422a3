"""Which latents fine-tuning added, removed or re-weighted, in all images, in each class and in each domain."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from amalgam.tasks.explain.comparison import Compared, Comparison
from amalgam.tasks.explain.decomposition import contributions
from amalgam.tasks.explain.significance import discovery_rates, mcnemar
from amalgam.tasks.scoring.sums import Sums


@dataclass(frozen=True)
class Changes:
    """Changes of latents in groups of images; everything is (groups, num_latents), float64."""

    images: Tensor
    """Images in each group, (groups,)."""
    added: Tensor
    """Images in which the latent is active after, and was not before."""
    removed: Tensor
    """Images in which it was active before, and no longer is."""
    mean_change: Tensor
    """Mean change of its activation."""
    effect: Tensor
    """Mean change of its contribution to the logit of the true class, read by the head before fine-tuning."""

    @property
    def added_rate(self) -> Tensor:
        """Share of the images that gained the latent."""
        return self.added / self.images.clamp(min=1)[:, None]

    @property
    def removed_rate(self) -> Tensor:
        """Share of the images that lost it."""
        return self.removed / self.images.clamp(min=1)[:, None]

    @property
    def p(self) -> Tensor:
        """McNemar's mid-p value of its presence."""
        return mcnemar(self.added, self.removed)

    @property
    def q(self) -> Tensor:
        """False-discovery rate over all latents and groups at which the change would just be called real."""
        return discovery_rates(self.p)


@dataclass(frozen=True)
class ChangeTable:
    """The changes in all images, by class and by domain; a family of tests each."""

    overall: Changes
    """One group."""
    by_class: Changes
    by_domain: Changes


@dataclass
class ChangeMeter:
    """Sums from which a `ChangeTable` follows."""

    by: Comparison
    num_domains: int
    sums: Sums = field(default_factory=Sums)

    def update(self, compared: Compared) -> None:
        """Count a batch."""
        active = compared.active
        fired = active.before != 0, active.after != 0
        amounts = {
            "added": (fired[1] & ~fired[0]).double(),
            "removed": (fired[0] & ~fired[1]).double(),
            "change": active.change,
            "effect": contributions(self.by, active, compared.labels),
        }
        for kind, groups, number in (
            ("class", compared.labels, self.by.num_classes),
            ("domain", compared.domains, self.num_domains),
        ):
            named = {f"{kind} {name}": amount for name, amount in amounts.items()}
            self.sums.add_by(active.places(groups), number * self.by.num_latents, named)
            self.sums.add_by(groups, number, {f"{kind} images": torch.ones_like(groups, dtype=torch.float64)})
        self.sums.count(len(compared))

    def result(self) -> ChangeTable:
        """The table. Raises ValueError if there were no images."""
        self.sums.require("images to find changes in")
        by_class, by_domain = self._changes("class"), self._changes("domain")
        whole = {name: total.sum(0, keepdim=True) for name, total in self._sums("domain").items()}
        return ChangeTable(_means(whole), by_class, by_domain)

    def _changes(self, kind: str) -> Changes:
        return _means(self._sums(kind))

    def _sums(self, kind: str) -> dict[str, Tensor]:
        """By group, and all but the number of images by latent."""
        images = self.sums[f"{kind} images"]
        of_latents = {name: self.sums[f"{kind} {name}"].reshape(len(images), -1) for name in SUMS}
        return {"images": images} | of_latents


SUMS = ("added", "removed", "change", "effect")


def _means(sums: dict[str, Tensor]) -> Changes:
    count = sums["images"].clamp(min=1)[:, None]
    return Changes(sums["images"], sums["added"], sums["removed"], sums["change"] / count, sums["effect"] / count)
