"""Pictures drawn by number, in any style: what a world shows, as a set of images or as an endless stream.

Shapes: (n, c, h, w) = images, channels, height, width.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from amalgam.tasks.data.pixels import Images, in_memory
from amalgam.tasks.data.random_numbers import RandomNumbers
from amalgam.tasks.data.sources import MixedStyles, Styled

BINDING = 6  # purpose of chance
CHUNK = 2048  # pictures drawn at once; more would not fit the cache


class Renderer(Protocol):
    """Draws pictures, each from its number alone: first what it shows, then the style that this is shown in."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """What each class is called."""

    def sources(self, ids: Tensor) -> Tensor:
        """Numbers of the stored images that each of the pictures `ids` (n,) is made of, (n, sources)."""

    def canvases(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """What the pictures `ids` (n,) show, (n, c, h, w) in [0, 1], and their classes (n,)."""

    def rendered(self, style: str, canvases: Tensor, ids: Tensor) -> Tensor:
        """These in a style, as uint8 (n, 3, h, w). Raises ValueError if they leave no style to choose."""

    def to(self, device: torch.device | str) -> "Renderer":
        """One that keeps what it needs on a device and draws there; `ids` must be there too."""


def draw(renderer: Renderer, source: Styled) -> Images:
    """All images of a source."""
    every = torch.arange(source.num_images)
    parts = [draw_in(renderer, ids, [source.style], 0 * ids) for ids in every.split(CHUNK)]
    return replace(in_memory(*_joined(parts), renderer.class_names), sources=renderer.sources(every))


def draw_mixed(renderer: Renderer, source: MixedStyles) -> Images:
    """All images of a mixture: image i has style i modulo the number of styles, and is as in that style's own set.

    Where styles are bound to classes, images are of groups.
    """
    ids, number = torch.arange(source.pictures.num_images), len(source.styles)
    parts = [(part, *_styles_of(renderer, source, part)) for part in ids.split(CHUNK)]
    pixels, labels = _joined([draw_in(renderer, part, source.styles, shown) for part, shown, _ in parts])
    shown, own = (torch.cat([part[place] for part in parts]) for place in (1, 2))
    by_class = source.label == "class"
    images = in_memory(pixels, labels if by_class else shown, renderer.class_names if by_class else source.styles)
    images = replace(images, sources=renderer.sources(ids))
    if source.bound is None:
        return images
    names = tuple(f"{mine} in {other}" for mine in source.styles for other in source.styles)
    return replace(images, groups=own * number + shown, group_names=names)


def _styles_of(renderer: Renderer, source: MixedStyles, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Which style each picture is shown in, and which one belongs to its class, (n,) each."""
    number = len(source.styles)
    if source.bound is None:
        return ids % number, ids % number
    own = renderer.canvases(ids)[1] * number // len(renderer.class_names)
    is_own, other = RandomNumbers(ids, source.pictures.seed, BINDING).uniforms(2).T
    return torch.where(is_own < source.bound, own, (own + 1 + (other * (number - 1)).long()) % number), own


def draw_in(renderer: Renderer, ids: Tensor, styles: Sequence[str], which: Tensor) -> tuple[Tensor, Tensor]:
    """The pictures `ids` (n,), each in the style at `which` (n,), as uint8 (n, 3, h, w), and their classes (n,)."""
    canvases, labels = renderer.canvases(ids)
    pictures = torch.empty(len(ids), 3, *canvases.shape[2:], dtype=torch.uint8, device=canvases.device)
    for place in which.unique().tolist():
        chosen = which == place
        pictures[chosen] = renderer.rendered(styles[place], canvases[chosen], ids[chosen])
    return pictures, labels


def _joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    pixels, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    return pixels, labels
