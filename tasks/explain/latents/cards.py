"""What the card of a latent shows: how strongly it is active, in which images, and beside which others.

Everything is of all latents at once, from the entries of `Active`; only pictures are listed for a few of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy.sparse import csr_array
from torch import Tensor

from amalgam.tasks.explain.active import SIDES, Active, Side
from amalgam.tasks.explain.comparison import Comparison
from amalgam.tasks.explain.latents.table import ranked
from amalgam.tasks.sae.autoencoder import unit_norm

NUM_BINS = 16
QUANTILES = (1.0, 0.75, 0.5, 0.25, 0.0)
PER_QUANTILE = 3
NUM_NEIGHBOURS = 5
BLOCK = 1024  # latents whose neighbours are searched at once


@dataclass(frozen=True)
class Histograms:
    """Activations in bins of equal width from 0 to the highest of each latent."""

    highest: Tensor
    """(num_latents,)."""
    counts: dict[Side, Tensor]
    """Images in each bin before and after, (num_latents, NUM_BINS); images without the latent are not counted."""


def histograms(active: Active) -> Histograms:
    """The histogram of each latent's positive activations; both sides have the same bins."""
    both = torch.maximum(active.before, active.after)
    zeros = both.new_zeros(active.num_latents)
    highest = zeros.scatter_reduce(0, active.latents, both, "amax")
    counts = dict[Side, Tensor]()
    for side in SIDES:
        values = active.side(side)
        positive = values > 0
        latents, values = active.latents[positive], values[positive]
        bins = (values / highest[latents] * NUM_BINS).ceil().long().clamp(1, NUM_BINS) - 1
        counts[side] = (
            (latents * NUM_BINS + bins).bincount(minlength=active.num_latents * NUM_BINS).reshape(-1, NUM_BINS)
        )
    return Histograms(highest, counts)


@dataclass(frozen=True)
class Pictures:
    """Images of latents at quantiles of their activation, each latent's strongest first; each (pictures,)."""

    latents: Tensor
    images: Tensor
    quantiles: Tensor
    """Share of the images with the latent that activate it no more than this one: 1 is the strongest."""
    before: Tensor
    """Activations."""
    after: Tensor


def pictures(active: Active, latents: Sequence[int]) -> Pictures:
    """A few images around each of QUANTILES, by activation after, or before where a latent is never active after."""
    lost = active.sums((active.after > 0).double())[0] == 0
    order, counts = ranked(active, torch.where(lost[active.latents], active.before, active.after))
    starts = (counts.cumsum(0) - counts).tolist()
    rows, quantiles = [], []
    for latent, number in zip(latents, counts[list(latents)].tolist(), strict=True):
        ranks = [round((1 - quantile) * (number - 1)) for quantile in QUANTILES]
        firsts = [max(0, min(rank - PER_QUANTILE // 2, number - PER_QUANTILE)) for rank in ranks]
        near = sorted({rank for first in firsts for rank in range(first, min(first + PER_QUANTILE, number))})
        rows += [starts[latent] + rank for rank in near]
        quantiles += [1 - rank / max(1, number - 1) for rank in near]
    found = order[torch.tensor(rows, dtype=torch.long)]
    levels = torch.tensor(quantiles, dtype=torch.float64)
    return Pictures(active.latents[found], active.images[found], levels, active.before[found], active.after[found])


@dataclass(frozen=True)
class Nearest:
    """The nearest others of each latent, nearest first, (num_latents, at most as many as were asked for)."""

    latents: Tensor
    values: Tensor
    """Likeness; where it is not above 0 there is no neighbour."""


def by_cosine(atoms: Tensor, number: int) -> Nearest:
    """Latents whose atoms (num_latents, width) have the highest cosines."""
    unit = unit_norm(atoms.float())
    return _nearest(len(atoms), number, lambda block: unit[block] @ unit.T)


def by_cofiring(active: Active, number: int) -> Nearest:
    """Latents that are active after in the same images, by images with both over images with either (Jaccard)."""
    there = (active.after != 0).cpu()
    places = active.images.cpu()[there].numpy(), active.latents.cpu()[there].numpy()
    fired = csr_array((there[there].float().numpy(), places), (active.num_images, active.num_latents))
    of_latents, counts = fired.T.tocsr(), torch.from_numpy(fired.sum(0))

    def jaccard(block: slice) -> Tensor:
        both = torch.from_numpy((of_latents[block] @ fired).toarray())
        return both / (counts[block, None] + counts - both).clamp(min=1)

    return _nearest(active.num_latents, number, jaccard)


def _nearest(num_latents: int, number: int, likeness: Callable[[slice], Tensor]) -> Nearest:
    found = []
    for first in range(0, num_latents, BLOCK):
        block = likeness(slice(first, min(first + BLOCK, num_latents)))
        block[torch.arange(len(block)), torch.arange(first, first + len(block))] = -torch.inf
        found.append(block.topk(min(number, num_latents - 1), dim=1))
    return Nearest(torch.cat([part.indices for part in found]), torch.cat([part.values for part in found]))


@dataclass(frozen=True)
class Cards:
    """What cards show of all latents, besides what an `Explanation` has."""

    histograms: Histograms
    by_cosine: Nearest
    by_cofiring: Nearest
    writes: Tensor
    """How far one unit of a latent moves each class logit after fine-tuning, less the mean over classes, which moves
    no prediction, (num_latents, num_classes)."""


def cards_of(by: Comparison, active: Active) -> Cards:
    """The cards of the latents of an autoencoder."""
    writes = by.pulls[1] - by.pulls[1].mean(1, keepdim=True)
    near = by_cosine(by.atoms, NUM_NEIGHBOURS), by_cofiring(active, NUM_NEIGHBOURS)
    return Cards(histograms(active), *near, writes)
