"""Everything that explanations report about two classifiers, from one pass over the features of both."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from amalgam.tasks.explain.active import SIDES, Active
from amalgam.tasks.explain.changes import ChangeMeter, ChangeTable
from amalgam.tasks.explain.clamps import TARGETS, ClampMeter, ClampTable
from amalgam.tasks.explain.comparison import Compared, Comparison
from amalgam.tasks.explain.decomposition import Shares, SharesMeter, decompose
from amalgam.tasks.explain.flips import FlipMeter, FlipReport, Flips, flips_of
from amalgam.tasks.explain.latents.table import Groups, LatentTable, Seen, latent_table
from amalgam.tasks.sae.metrics import MonosemanticityMeter
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
    fvu: Tensor
    """Fraction of the variance of features that the autoencoder leaves unexplained, (domains, before and after)."""
    active: Active
    seen: Seen
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
    """What an `Explanation` follows from: sums, and of each image about 40 bytes for each of its active latents."""

    def __init__(self, by: Comparison, num_domains: int, top_n: int) -> None:
        self.by, self.top_n, self.groups = by, top_n, Groups(by.num_classes, num_domains)
        self.similar = [MonosemanticityMeter() for _ in range(2)]
        self.changes, self.shares = ChangeMeter(by, num_domains), SharesMeter(num_domains)
        self.flips, self.clamps = FlipMeter(by.num_latents, num_domains), ClampMeter(by, num_domains)
        self.active, self.seen, self.sums = list[Active](), list[Seen](), Sums()

    @torch.no_grad()
    def update(self, compared: Compared, embeddings: Tensor) -> Flips:
        """Count a batch and return its flips; embeddings (batch, any width) are of an encoder of their own."""
        parts = decompose(compared)
        flips = flips_of(compared, parts)
        self.active.append(compared.active)
        self.seen.append(Seen(compared.labels, compared.domains, *compared.predicted))
        for meter, codes in zip(self.similar, (compared.s0, compared.s1), strict=True):
            meter.update(codes, embeddings)
        self.changes.update(compared)
        self.shares.update(compared, parts)
        self.flips.update(compared, flips)
        self.clamps.update(compared)
        places = {
            f"place {side}": s.weighted_sums(compared.z0)
            for side, s in zip(SIDES, (compared.s0, compared.s1), strict=True)
        }
        self.sums.add(places)
        features = dict[str, Tensor]()
        for side, z, s in zip(SIDES, (compared.z0, compared.z1), (compared.s0, compared.s1), strict=True):
            error = z - s.decode(self.by.atoms) - self.by.sae.bias.double()
            features |= {side: z, f"square {side}": z.square().sum(1), f"error {side}": error.square().sum(1)}
        self.sums.add_by(compared.domains, self.groups.domains, features)
        self.sums.count(len(compared))
        return flips

    def result(self) -> Explanation:
        """The explanation. Raises ValueError if there were no images."""
        self.sums.require("images to explain")
        active, seen = Active.joined(self.active), Seen.joined(self.seen)
        before, after = (
            latent_table(active, side, seen, self.groups, self.top_n, meter.result())
            for side, meter in zip(SIDES, self.similar, strict=True)
        )
        return Explanation(
            before.images[1],
            before,
            after,
            self.changes.result(),
            self.shares.result(),
            self.flips.result(),
            {target: self.clamps.result(target) for target in TARGETS},
            self.clamps.accuracies(),
            self._fvu(before.images[1]),
            active,
            seen,
            self._directions(before, after),
        )

    def _fvu(self, counts: Tensor) -> Tensor:
        """Squared errors over squared distances from the mean of each domain."""
        columns = []
        for side in SIDES:
            variance = self.sums[f"square {side}"] - self.sums[side].square().sum(1) / counts.clamp(min=1)
            columns.append(self.sums[f"error {side}"] / variance)
        return torch.stack(columns, 1)

    def _directions(self, before: LatentTable, after: LatentTable) -> Tensor:
        places = [
            self.sums[f"place {side}"] / (table.means * table.counts).where(table.counts > 0, 1.0)[:, None]
            for side, table in zip(SIDES, (before, after), strict=True)
        ]
        mean = self.sums["before"].sum(0) / before.images[1].sum()
        return torch.where((before.counts > 0)[:, None], places[0], places[1]) - mean
