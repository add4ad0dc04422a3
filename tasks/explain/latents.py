"""What each latent represents in one model: how often and for what it fires, and its strongest images."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from amalgam.tasks.sae.metrics import MonosemanticityMeter
from amalgam.tasks.scoring.sums import Sums

GRID = 16  # pixels; how finely images are compared


def pixel_embedding(images: Tensor) -> Tensor:
    """What images (batch, channels, height, width) look like to no encoder at all, (batch, numbers).

    Their pixels on a grid of at most GRID x GRID, less the mean of each image.
    """
    height, width = images.shape[2:]
    pixels = adaptive_avg_pool2d(images.float(), (min(height, GRID), min(width, GRID))).flatten(1)
    return pixels - pixels.mean(1, keepdim=True)


@dataclass(frozen=True)
class LatentTable:
    """One row per latent of one model; dead latents have rate 0, mean 0 and NaN for what needs images."""

    class_counts: Tensor
    """Images of each class in which each latent is active, (num_classes, num_latents)."""
    domain_counts: Tensor
    """Images of each domain in which it is active, (num_domains, num_latents)."""
    images: tuple[Tensor, Tensor]
    """Images of each class and of each domain."""
    means: Tensor
    """Mean activation where active, (num_latents,)."""
    top_values: Tensor
    """Activations of the strongest images, descending, 0 where there are no more, (num_latents, top_n)."""
    top_rows: Tensor
    """Their numbers in the stream, counted from 0; -1 where there are no more."""
    label_entropy: Tensor
    """Entropy in bits of the classes of the strongest images, by activation: 0 is one class, (num_latents,)."""
    domain_entropy: Tensor
    """That of their domains."""
    monosemanticity: Tensor
    """Similarity of the images that activate it, as an encoder of its own sees them; see MonosemanticityMeter."""

    @property
    def counts(self) -> Tensor:
        """Images in which each latent is active, (num_latents,)."""
        return self.class_counts.sum(0)

    @property
    def firing_rates(self) -> Tensor:
        """Share of all images in which each latent is active, (num_latents,)."""
        return self.counts / self.images[0].sum()

    @property
    def class_rates(self) -> Tensor:
        """Share of the images of each class in which each latent is active, (num_classes, num_latents)."""
        return self.class_counts / self.images[0].clamp(min=1)[:, None]


@dataclass
class LatentMeter:
    """Sums and strongest images from which a `LatentTable` follows; memory does not grow with the images."""

    num_classes: int
    num_domains: int
    top_n: int
    sums: Sums = field(default_factory=Sums)
    strongest: dict[str, Tensor] = field(default_factory=dict)
    similar: MonosemanticityMeter = field(default_factory=MonosemanticityMeter)

    def update(self, activations: Tensor, labels: Tensor, domains: Tensor, embeddings: Tensor) -> None:
        """Count dense activations (batch, num_latents), classes, domains (batch,) and embeddings (batch, any width)."""
        active = (activations != 0).double()
        ones = active.new_ones(len(activations))
        self.sums.add_by(labels, self.num_classes, {"class": active, "class images": ones})
        self.sums.add_by(domains, self.num_domains, {"domain": active, "domain images": ones})
        self.sums.add({"activation": activations.sum(0)})
        rows = self.sums.num_examples + torch.arange(len(labels), device=labels.device)
        values = activations.T.clamp(min=0)
        batch = {name: x.expand_as(values) for name, x in (("rows", rows), ("labels", labels), ("domains", domains))}
        self.strongest = self._stronger(self.strongest or self._none(activations), {"values": values} | batch)
        self.similar.update(activations, embeddings)
        self.sums.count(len(activations))

    def __add__(self, other: "LatentMeter") -> "LatentMeter":
        """The meter of both streams, the other's images numbered after these."""
        both = LatentMeter(self.num_classes, self.num_domains, self.top_n, self.sums + other.sums)
        both.similar = MonosemanticityMeter(self.similar.sums + other.similar.sums)
        later = dict(other.strongest)
        if later:
            later["rows"] = (later["rows"] + self.sums.num_examples).where(later["values"] > 0, -1)
        both.strongest = self._stronger(self.strongest, later) if self.strongest and later else self.strongest or later
        return both

    def result(self) -> LatentTable:
        """The table. Raises ValueError if there were no images."""
        self.sums.require("images to describe latents by")
        sums, top = self.sums, self.strongest
        return LatentTable(
            sums["class"],
            sums["domain"],
            (sums["class images"], sums["domain images"]),
            sums["activation"] / sums["class"].sum(0).clamp(min=1),
            top["values"],
            top["rows"],
            label_entropy=entropy(top["values"], top["labels"], self.num_classes),
            domain_entropy=entropy(top["values"], top["domains"], self.num_domains),
            monosemanticity=self.similar.result(),
        )

    def _none(self, activations: Tensor) -> dict[str, Tensor]:
        number = activations.shape[1]
        none = torch.full((number, self.top_n), -1, device=activations.device)
        return {"values": activations.new_zeros(number, self.top_n), "rows": none, "labels": none, "domains": none}

    def _stronger(self, first: dict[str, Tensor], later: dict[str, Tensor]) -> dict[str, Tensor]:
        """The `top_n` strongest images of each latent out of two parts of a stream, each (num_latents, images)."""
        # Stable, so that of equally strong images the first ones stay, however they were batched.
        ranked, order = torch.cat([first["values"], later["values"]], 1).sort(dim=1, descending=True, stable=True)
        values, order = ranked[:, : self.top_n], order[:, : self.top_n]
        both = {name: torch.cat([first[name], later[name]], 1).gather(1, order) for name in first}
        return {name: kept.where(values > 0, -1) for name, kept in both.items()} | {"values": values}


def entropy(weights: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """Entropy in bits of groups (n, k), weighted by (n, k): (n,), NaN where all weights are 0; group -1 is none."""
    zeros = weights.new_zeros(len(weights), num_groups)
    mass = zeros.scatter_add(1, groups.clamp(min=0), weights * (groups >= 0))
    total = mass.sum(1, keepdim=True)
    share = mass / total
    return torch.where(
        total[:, 0] > 0, -(torch.special.xlogy(share, share)).sum(1) / torch.log(share.new_tensor(2.0)), torch.nan
    )
