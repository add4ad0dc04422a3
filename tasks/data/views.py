"""Augmented pictures that can be made again: what is drawn depends on the view and the image alone.

Not on the training seed, the batch or its order, so that what a frozen network says of a view is computed once and
shared by every run that sees it. Shapes: (b, c, h, w) = batch, channels, height, width.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from amalgam.tasks.data.random_numbers import uniforms

ViewKind = Literal["none", "shift", "resized_crop"]

MARGIN = 8  # a picture is shifted by up to 1/8 of its side: 4 pixels of 32, as is usual for CIFAR
STREAMS = {"shift": 1, "resized_crop": 2}  # kinds of views draw numbers of their own
AREA = (0.9, 1.0)  # share of the picture that a crop keeps, as CLIPs are fine-tuned (method page, section 5)
RATIO = (3 / 4, 4 / 3)  # width over height of a crop, as torchvision's RandomResizedCrop has it
ATTEMPTS = 10  # how often that draws a crop before it takes the largest one


class View(NamedTuple):
    """One augmentation of a whole set of pictures."""

    augment: ViewKind = "none"
    """Shifted with black filling the gap, cropped a little and resized back, or as they are."""
    number: int = 0
    """Which of the views of this kind, from 0."""

    def __call__(self, ids: Tensor, pixels: Tensor) -> Tensor:
        """The pictures (b, c, h, w) in uint8 of the images at positions `ids` (b,), as this view shows them."""
        return pixels if self.augment == "none" else _KINDS[self.augment](ids, self.number, pixels)


def shifted(pixels: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Each picture moved by `down` and `right` (b,), from 0 to twice the margin, which is no shift at half way."""
    count, _, height, width = pixels.shape
    windows = pad(pixels, (margin_of(pixels),) * 4).unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(count), :, down, right]


def margin_of(pixels: Tensor) -> int:
    """The largest shift in pixels."""
    return max(1, pixels.shape[2] // MARGIN)


def _shift(ids: Tensor, number: int, pixels: Tensor) -> Tensor:
    drawn = uniforms(ids, number, 2, STREAMS["shift"])
    down, right = (drawn * (2 * margin_of(pixels) + 1)).long().unbind(1)
    return shifted(pixels, down, right)


def _resized_crop(ids: Tensor, number: int, pixels: Tensor) -> Tensor:
    """Each picture on its own: in a batch a crop's rounding would depend on its neighbours."""
    size = (pixels.shape[2], pixels.shape[3])
    shown = torch.empty_like(pixels)
    for place, (top, left, height, width) in enumerate(crops(ids, number, size).tolist()):
        part = pixels[place : place + 1, :, top : top + height, left : left + width]
        shown[place] = interpolate(part, size, mode="bicubic", antialias=True)[0]
    return shown


def crops(ids: Tensor, number: int, size: tuple[int, int]) -> Tensor:
    """Top, left, height and width of each picture's crop in a view, (b, 4), drawn as RandomResizedCrop draws them."""
    drawn = uniforms(ids, number, 2 * ATTEMPTS + 2, STREAMS["resized_crop"]).double()
    area = (AREA[0] + (AREA[1] - AREA[0]) * drawn[:, :ATTEMPTS]) * size[0] * size[1]
    low, high = (math.log(ratio) for ratio in RATIO)
    ratio = (low + (high - low) * drawn[:, ATTEMPTS:-2]).exp()
    sides = torch.stack([(area / ratio).sqrt().round(), (area * ratio).sqrt().round()], -1).long()
    fits = (sides <= torch.tensor(size)).all(-1)
    chosen = sides[torch.arange(len(ids)), fits.int().argmax(1)]  # the first that fits
    room = torch.tensor(size) - chosen + 1
    boxes = torch.cat([(drawn[:, -2:] * room).long(), chosen], 1)
    return torch.where(fits.any(1)[:, None], boxes, torch.tensor(_widest(*size)))


def _widest(height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of the largest central crop whose ratio is allowed."""
    inner = min(height, round(width / RATIO[0])), min(width, round(height * RATIO[1]))
    return (height - inner[0]) // 2, (width - inner[1]) // 2, *inner


_KINDS: dict[str, Callable[[Tensor, int, Tensor], Tensor]] = {"shift": _shift, "resized_crop": _resized_crop}
