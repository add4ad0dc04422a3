"""What each latent represents in one model: how often and for what it fires, and its strongest images."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from amalgam.tasks.explain.active import Active, Side

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


@dataclass(frozen=True)
class Seen:
    """What was looked at, in the order of the stream; each (images,)."""

    labels: Tensor
    domains: Tensor
    before: Tensor
    """Classes that the classifier predicted before fine-tuning."""
    after: Tensor
    """Those after."""

    @classmethod
    def joined(cls, batches: Sequence["Seen"]) -> "Seen":
        """All images of the batches."""
        return cls(*(torch.cat([getattr(seen, one.name) for seen in batches]) for one in fields(cls)))


@dataclass(frozen=True)
class Groups:
    """How many classes and domains there are."""

    classes: int
    domains: int


def latent_table(
    active: Active, side: Side, seen: Seen, groups: Groups, top_n: int, monosemanticity: Tensor
) -> LatentTable:
    """The latents of one encoder."""
    values = active.side(side)
    fired = (values != 0).double()
    class_counts = active.sums(fired, seen.labels, groups.classes)
    rows, top = strongest(active, values, top_n)
    return LatentTable(
        class_counts,
        active.sums(fired, seen.domains, groups.domains),
        (seen.labels.bincount(minlength=groups.classes), seen.domains.bincount(minlength=groups.domains)),
        active.sums(values)[0] / class_counts.sum(0).clamp(min=1),
        top,
        rows,
        label_entropy=entropy(top, seen.labels[rows.clamp(min=0)].where(rows >= 0, -1), groups.classes),
        domain_entropy=entropy(top, seen.domains[rows.clamp(min=0)].where(rows >= 0, -1), groups.domains),
        monosemanticity=monosemanticity,
    )


def ranked(active: Active, values: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of the entries with positive values by latent, strongest first, and how many each latent has.

    Of equally strong images the first ones come first.
    """
    positive = (values > 0).nonzero().flatten()
    order = positive[values[positive].argsort(descending=True, stable=True)]
    order = order[active.latents[order].argsort(stable=True)]
    return order, active.latents[positive].bincount(minlength=active.num_latents)


def strongest(active: Active, values: Tensor, top_n: int) -> tuple[Tensor, Tensor]:
    """Numbers of the strongest images, -1 where there are no more, and values, (num_latents, top_n)."""
    order, counts = ranked(active, values)
    starts = counts.cumsum(0) - counts
    ranks = torch.arange(top_n, device=values.device)
    there = ranks < counts[:, None]
    places = order[(starts[:, None] + ranks).where(there, 0)] if len(order) else torch.zeros_like(there).long()
    if not len(order):
        return places - 1, values.new_zeros(there.shape)
    return active.images[places].where(there, -1), values[places].where(there, 0)


def entropy(weights: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """Entropy in bits of groups (n, k), weighted by (n, k): (n,), NaN where all weights are 0; group -1 is none."""
    zeros = weights.new_zeros(len(weights), num_groups)
    mass = zeros.scatter_add(1, groups.clamp(min=0), weights * (groups >= 0))
    total = mass.sum(1, keepdim=True)
    share = mass / total
    return torch.where(
        total[:, 0] > 0, -(torch.special.xlogy(share, share)).sum(1) / torch.log(share.new_tensor(2.0)), torch.nan
    )
