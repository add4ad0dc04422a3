"""The pictures of the cards: each is shrunk to a tile, and asked which of its patches activate the latent."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amalgam.pipeline.reports.explanation.cards import cards_table, pictured_latents, pictures_table
from amalgam.pipeline.reports.explanation.page import Drawn
from amalgam.pipeline.reports.explanation.sheets import LARGEST, sheets
from amalgam.pipeline.reports.explanation.tables import NamedExplanation
from amalgam.tasks.data.images import Images
from amalgam.tasks.data.loading import batches
from amalgam.tasks.explain.cards import Pictures, pictures
from amalgam.tasks.explain.places import active_patches
from amalgam.tasks.models.image_tower import ImageTower
from amalgam.tasks.sae.autoencoder import SparseAutoencoder

AT_ONCE = 64  # pictures read at once


@dataclass(frozen=True)
class Stream:
    """The images of all domains, one after another."""

    domains: tuple[Images, ...]
    device: str

    def pixels(self, row: int) -> Tensor:
        """One image, uint8 (channels, height, width)."""
        (part,) = self.chosen([row])
        return part.images.batch(part.places)[0]

    def chosen(self, rows: Sequence[int]) -> Iterator["Part"]:
        """Images of increasing numbers, few at a time."""
        first, offset = 0, 0
        for images in self.domains:
            own = [row - offset for row in rows[first:] if row < offset + len(images)]
            for start in range(0, len(own), AT_ONCE):
                yield Part(first + start, images, torch.tensor(own[start : start + AT_ONCE]))
            first, offset = first + len(own), offset + len(images)


@dataclass(frozen=True)
class Part:
    """Images of one domain."""

    first: int
    """How many of those that were asked for come before."""
    images: Images
    places: Tensor
    """Positions of the chosen ones."""


def draw(explanation: NamedExplanation, stream: Stream, encoder: nn.Module, sae: SparseAutoencoder, key: str) -> Drawn:
    """The cards and their pictures; `encoder` is that after fine-tuning, `key` stands for the autoencoder."""
    latents = pictured_latents(explanation)
    found = pictures(explanation.found.active, latents)
    rows, tiles = found.images.unique(return_inverse=True)
    side = min(LARGEST, max(stream.domains[0].shape[1:]))
    patches, grid = _patches(Tiled(found, rows, tiles), stream, encoder, sae)
    small = (pixels for part in stream.chosen(rows.tolist()) for pixels in part.images.batch(part.places))
    return Drawn(
        autoencoder=key,
        cards=cards_table(explanation),
        pictures=pictures_table(explanation, found, patches),
        tiles=tiles.tolist(),
        sheets=sheets(small, side),
        tile=side,
        grid=grid,
        pictured=len(latents),
    )


@dataclass(frozen=True)
class Tiled:
    """Pictures of latents, the different images among them, and which of those each picture is."""

    pictures: Pictures
    rows: Tensor
    tiles: Tensor


@torch.no_grad()
def _patches(
    tiled: Tiled, stream: Stream, encoder: nn.Module, sae: SparseAutoencoder
) -> tuple[list[list[int]], tuple[int, int] | None]:
    """Numbers of the patches of each picture that activate its latent, and how many rows and columns there are."""
    numbers, grid = [list[int]() for _ in tiled.tiles], None
    for part in stream.chosen(tiled.rows.tolist()):
        (batch,) = batches(part.images, part.places, len(part.places), device=stream.device)
        features = encoder.patches(batch.images) if isinstance(encoder, ImageTower) else None
        if features is None:
            break
        grid = (features.shape[1], features.shape[2])
        shown = ((tiled.tiles >= part.first) & (tiled.tiles < part.first + len(part.places))).nonzero().flatten()
        inputs = features[tiled.tiles[shown] - part.first], tiled.pictures.latents[shown].to(features.device)
        for number, active in zip(shown.tolist(), active_patches(sae, *inputs).flatten(1), strict=True):
            numbers[number] = active.nonzero().flatten().tolist()
    return numbers, grid
