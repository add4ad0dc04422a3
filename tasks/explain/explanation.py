"""Everything that explanations report about two classifiers, from one pass over the features of both."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from amalgam.tasks.explain.changes import ChangeMeter, ChangeTable
from amalgam.tasks.explain.clamps import TARGETS, ClampMeter, ClampTable
from amalgam.tasks.explain.comparison import Compared, Comparison
from amalgam.tasks.explain.decomposition import Shares, SharesMeter, decompose
from amalgam.tasks.explain.flips import FlipMeter, FlipReport, Flips, flips_of
from amalgam.tasks.explain.latents import LatentMeter, LatentTable
from amalgam.tasks.sae.metrics import Quality, QualityMeter
from amalgam.tasks.scoring.sums import Sums


@dataclass(frozen=True)
class Explanation:
    """What changed; names are not in it, they need words."""

    num_images: Tensor
    """Images of each domain, (domains,)."""
    before: LatentTable
    after: LatentTable
    changes: ChangeTable
    shares: Shares
    flips: FlipReport
    clamps: dict[str, ClampTable]
    """By target: `before`, `zero`."""
    accuracies: dict[str, Tensor]
    """Of both classifiers and of the latter with a piece reset to what it was before, by domain and, last, in all."""
    quality: tuple[tuple[Quality, Quality], ...]
    """How well the autoencoder does on the features of each domain, before and after."""
    directions: Tensor
    """Mean unit feature before fine-tuning of the images that `meaning` counts, by activation, less that of all images,
    (num_latents, width)."""

    @property
    def meaning(self) -> LatentTable:
        """What latents stood for before fine-tuning; those that never fired then, what they stand for after."""
        return replace(
            self.before,
            class_counts=torch.where(self.before.counts > 0, self.before.class_counts, self.after.class_counts),
            domain_counts=torch.where(self.before.counts > 0, self.before.domain_counts, self.after.domain_counts),
        )

    @property
    def alive(self) -> Tensor:
        """Latents that are active in some image, before or after, (num_latents,)."""
        return self.before.counts + self.after.counts > 0


class Explainer:
    """Sums from which an `Explanation` follows; memory does not grow with the images."""

    def __init__(self, by: Comparison, num_domains: int, top_n: int) -> None:
        self.by, self.num_domains = by, num_domains
        self.latents = [LatentMeter(by.num_classes, num_domains, top_n) for _ in range(2)]
        self.changes, self.shares = ChangeMeter(by, num_domains), SharesMeter(num_domains)
        self.flips, self.clamps = FlipMeter(by.num_latents, num_domains), ClampMeter(by, num_domains)
        self.quality = [(QualityMeter(by.sae), QualityMeter(by.sae)) for _ in range(num_domains)]
        self.sums = Sums()

    @torch.no_grad()
    def update(self, compared: Compared, embeddings: Tensor) -> Flips:
        """Count a batch and return its flips; embeddings (batch, any width) are of an encoder of their own."""
        parts = decompose(compared)
        flips = flips_of(compared, parts)
        for meter, codes in zip(self.latents, (compared.s0, compared.s1), strict=True):
            meter.update(codes, compared.labels, compared.domains, embeddings)
        self.changes.update(compared)
        self.shares.update(compared, parts)
        self.flips.update(compared, flips)
        self.clamps.update(compared)
        places = {"place before": compared.s0.T @ compared.z0, "place after": compared.s1.T @ compared.z0}
        self.sums.add(places | {"feature": compared.z0.sum(0)})
        for domain in compared.domains.unique().tolist():
            chosen = compared.domains == domain
            for meter, features in zip(self.quality[domain], (compared.z0, compared.z1), strict=True):
                meter.update(features[chosen].float())
        return flips

    def result(self) -> Explanation:
        """The explanation. Raises ValueError if there were no images, or none of some domain."""
        before, after = (meter.result() for meter in self.latents)
        return Explanation(
            before.images[1],
            before,
            after,
            self.changes.result(),
            self.shares.result(),
            self.flips.result(),
            {target: self.clamps.result(target) for target in TARGETS},
            self.clamps.accuracies(),
            tuple((old.result(), new.result()) for old, new in self.quality),
            self._directions(before, after),
        )

    def _directions(self, before: LatentTable, after: LatentTable) -> Tensor:
        places = [
            self.sums[name] / (table.means * table.counts).where(table.counts > 0, 1.0)[:, None]
            for name, table in (("place before", before), ("place after", after))
        ]
        mean = self.sums["feature"] / before.images[1].sum()
        return torch.where((before.counts > 0)[:, None], places[0], places[1]) - mean
