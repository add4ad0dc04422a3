"""The pictures of the cards: each is shrunk to a tile, and asked which of its patches activate the latent.

Tiles share sheets, so that a page of thousands opens at once: a browser decodes the sheets that it shows.
"""

import base64
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor, nn

from amalgam.pipeline.reports.explanation.cards import PICTURED, Dictionary, cards_table, pictures_table
from amalgam.tasks.data.images import Images
from amalgam.tasks.data.loading import batches
from amalgam.tasks.explain.latents.cards import Pictures, pictures
from amalgam.tasks.explain.latents.places import active_patches
from amalgam.tasks.models.image_tower import ImageTower

AT_ONCE = 64  # pictures read at once
LARGEST = 64  # pixels; the longer side of a picture in the page
PER_SIDE = 16  # pictures along a side of a sheet
LOSSLESS = 32  # pixels; pictures up to this size are kept as they are, larger ones are stored as JPEG


@dataclass(frozen=True)
class Drawn:
    """What the page's script draws cards from."""

    autoencoder: str
    """Key of its weights, by which labels are kept."""
    cards: pa.Table
    pictures: pa.Table
    tiles: Sequence[int]
    """Which tile of the sheets each picture is."""
    sheets: Sequence[str]
    tile: int
    """Pixels along the side of a tile."""
    grid: tuple[int, int] | None
    """Rows and columns of patches; None of networks without."""
    pictured: int
    """Latents that have pictures."""


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


@torch.no_grad()
def draw(dictionaries: Sequence[Dictionary], stream: Stream, encoder: nn.Module, key: str) -> Drawn:
    """The cards and their pictures; `encoder` is that after fine-tuning, `key` stands for the original autoencoder."""
    found = [pictures(each.explanation.found.active, each.pictured) for each in dictionaries]
    rows, tiles = torch.cat([each.images for each in found]).unique(return_inverse=True)
    own = tiles.split([len(each.images) for each in found])
    patches, grid = _patches(dictionaries, found, own, rows, stream, encoder)
    side = min(LARGEST, max(stream.domains[0].shape[1:]))
    small = (pixels for part in stream.chosen(rows.tolist()) for pixels in part.images.batch(part.places))
    return Drawn(
        autoencoder=key,
        cards=pa.concat_tables(map(cards_table, dictionaries)),
        pictures=pa.concat_tables(map(pictures_table, dictionaries, found, patches)),
        tiles=tiles.tolist(),
        sheets=sheets(small, side),
        tile=side,
        grid=grid,
        pictured=PICTURED,
    )


def _patches(
    dictionaries: Sequence[Dictionary],
    found: Sequence[Pictures],
    tiles: Sequence[Tensor],
    rows: Tensor,
    stream: Stream,
    encoder: nn.Module,
) -> tuple[list[list[list[int]]], tuple[int, int] | None]:
    """Numbers of the patches of each picture that activate its latent, and how many rows and columns there are."""
    numbers, grid = [[list[int]() for _ in each.images] for each in found], None
    for part in stream.chosen(rows.tolist()):
        (batch,) = batches(part.images, part.places, len(part.places), device=stream.device)
        features = encoder.patches(batch.images) if isinstance(encoder, ImageTower) else None
        if features is None:
            break
        grid = (features.shape[1], features.shape[2])
        for dictionary, each, own, kept in zip(dictionaries, found, tiles, numbers, strict=True):
            shown = ((own >= part.first) & (own < part.first + len(part.places))).nonzero().flatten()
            latents = each.latents[shown].to(features.device)
            active = active_patches(dictionary.sae, features[own[shown] - part.first], latents).flatten(1)
            for number, where in zip(shown.tolist(), active, strict=True):
                kept[number] = where.nonzero().flatten().tolist()
    return numbers, grid


def sheets(pictures: Iterable[Tensor], size: int) -> list[str]:
    """Sheets of PER_SIDE x PER_SIDE tiles of `size` pixels, row by row, as data URLs.

    Pictures are uint8 (channels, height, width) and are shrunk into their tile if they are larger.
    """
    found, sheet = list[str](), Image.new("RGB", (0, 0))
    for number, pixels in enumerate(pictures):
        place = number % PER_SIDE**2
        if place == 0:
            found += [_url(sheet)] if number else []
            sheet = Image.new("RGB", (PER_SIDE * size, PER_SIDE * size), "#eee")
        tile = picture(pixels, size)
        row, column = divmod(place, PER_SIDE)
        sheet.paste(tile, (column * size + (size - tile.width) // 2, row * size + (size - tile.height) // 2))
    return [*found, _url(sheet)] if sheet.width else found


def picture(pixels: Tensor, size: int = LARGEST) -> Image.Image:
    """An image, uint8 (channels, height, width), shrunk if it is larger."""
    array = pixels.cpu().movedim(0, -1).numpy()
    image = Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[-1] == 1 else array)).convert("RGB")
    image.thumbnail((size, size))
    return image


def _url(sheet: Image.Image) -> str:
    stored, kind = io.BytesIO(), "png" if sheet.width <= PER_SIDE * LOSSLESS else "jpeg"
    sheet.save(stored, format=kind, optimize=True, quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(stored.getvalue()).decode()}"
