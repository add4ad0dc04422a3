"""Photos in random order and in any style; each follows from (seed, number) alone.

Shapes: (n, c, h, w) = images, channels, height, width.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from amalgam.tasks.data.images import Images, load
from amalgam.tasks.data.random_numbers import RandomNumbers
from amalgam.tasks.data.sources import StyledPhotos
from amalgam.tasks.data.synthetic.filters import moved
from amalgam.tasks.data.synthetic.photo_styles import in_photo_style

ORDER, VARIATION = 4, 5  # numbers of these random streams
REACH = 1 / 8  # how far a varied photo is moved at most, as a share of its side


@dataclass(frozen=True)
class PhotoRenderer:
    """Draws photos; see `tasks.data.synthetic.renderer.Renderer`."""

    pixels: Tensor
    """The photos in their order, uint8 (photos, 3, h, w)."""
    labels: Tensor
    """Their classes, int64 (photos,)."""
    class_names: tuple[str, ...]
    varied: bool
    """Whether they are mirrored and moved at random."""
    seed: int

    def sources(self, ids: Tensor) -> Tensor:
        """See `Renderer`, as for all that follow."""
        return (ids % len(self.labels))[:, None]

    def canvases(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        places = self.sources(ids)[:, 0]
        photos = self.pixels[places].float() / 255
        return _varied(photos, RandomNumbers(ids, self.seed, VARIATION)) if self.varied else photos, self.labels[places]

    def rendered(self, style: str, canvases: Tensor, ids: Tensor) -> Tensor:
        return in_photo_style(style, canvases, ids, self.seed)

    def to(self, device: torch.device | str) -> "PhotoRenderer":
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device))


def open_photos(source: StyledPhotos, root: Path | None) -> PhotoRenderer:
    """What draws the photos of a source. Raises ValueError where there are too few, or class names do not fit."""
    images = load(source.data, source.split, root)
    first, step = {"all": (0, 1), "first": (0, 2), "second": (1, 2)}[source.half]
    places = torch.arange(first, len(images), step)
    if source.num_images > len(places) and not source.varied:
        part = "all" if source.half == "all" else f"the {source.half} half"
        raise ValueError(
            f"num_images is {source.num_images}, but {part} of the {source.split} split of {source.data.name!r} "
            f"has {len(places)}"
        )
    order = RandomNumbers(torch.arange(len(places)), source.seed, ORDER).uniforms(1)[:, 0].argsort(stable=True)
    places = places[order]
    pixels = images.batch(places).expand(-1, 3, -1, -1)
    return PhotoRenderer(pixels, images.labels[places], _class_names(source, images), source.varied, source.seed)


def _class_names(source: StyledPhotos, images: Images) -> tuple[str, ...]:
    """Those of the configuration or, without, of the photos."""
    names, found = source.class_names, len(images.class_names)
    if names and len(names) != found:
        raise ValueError(f"{source.data.name!r} has {found} classes, got {len(names)} class_names")
    return names or images.class_names


def _varied(photos: Tensor, random: RandomNumbers) -> Tensor:
    """Half of them mirrored, all moved by whole pixels; beyond the border they go on as they end."""
    reach = round(REACH * photos.shape[2])
    mirrored, down, right = random.uniforms(3)[:, :, None, None].unbind(1)
    photos = torch.where((mirrored < 0.5)[:, None], photos.flip(3), photos)
    return moved(photos, ((2 * down - 1) * reach).round(), ((2 * right - 1) * reach).round())
