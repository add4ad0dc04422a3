"""Pairs of digits on one canvas, in any style: a small world of 100 classes, "zero zero" to "nine nine".

Everything random about an image is drawn from (seed, image) alone, so that images of one set can be drawn in any
order, in parts, or while they are trained on. Shapes: (n, c, h, w) = images, channels, height, width.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from amalgam.tasks.data.images import load
from amalgam.tasks.data.random_numbers import RandomNumbers
from amalgam.tasks.data.sources import DIGIT_NAMES, PAIR_NAMES, StyledPairs
from amalgam.tasks.data.splits import hold_out
from amalgam.tasks.data.synthetic.styles import as_bytes, in_style

CHOICE, PLACEMENT = 1, 2  # numbers of these random streams
WIDTH, HEIGHT = 0.46, 0.68  # of a digit, as shares of the canvas
SCALES = (0.9, 1.05)  # what these are multiplied by, from one digit to another
SWAY, RISE = 0.03, 0.08  # how far a digit is moved sideways, and up or down, as shares of the canvas


@dataclass(frozen=True)
class Glyphs:
    """Single digits that pairs are drawn from."""

    pixels: Tensor
    """uint8, (glyphs, c, h, w)."""
    labels: Tensor
    """Their values, int64, (glyphs,)."""
    margin: float
    """Share of the side that is cut off on every border."""

    @property
    def in_colour(self) -> bool:
        return self.pixels.shape[1] == 3

    def to(self, device: torch.device | str) -> "Glyphs":
        """The same, kept on a device."""
        return Glyphs(self.pixels.to(device), self.labels.to(device), self.margin)


@dataclass(frozen=True)
class PairRenderer:
    """Draws pairs; see `tasks.data.synthetic.renderer.Renderer`."""

    glyphs: Glyphs
    size: int
    seed: int
    pools: tuple[Tensor, Tensor]
    """Places of the glyphs that the first pictures are made of, and of those that all others are."""
    num_first: int
    """How many the first pictures are."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """See `Renderer`, as for all that follow."""
        return PAIR_NAMES

    def sources(self, ids: Tensor) -> Tensor:
        drawn = RandomNumbers(ids, self.seed, CHOICE).uniforms(2)
        first, rest = (pool.to(ids.device)[(drawn * len(pool)).long()] for pool in self.pools)
        return torch.where((ids < self.num_first)[:, None], first, rest)

    def canvases(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        return canvases_of(self.glyphs, self.sources(ids), ids, self.seed, self.size)

    def rendered(self, style: str, canvases: Tensor, ids: Tensor) -> Tensor:
        if not self.glyphs.in_colour:
            return in_style(style, canvases[:, 0], ids, self.seed)
        if style != StyledPairs.seen_styles[0]:
            raise ValueError(
                f"style {style!r} needs grey digits, these are in colour: choose {StyledPairs.seen_styles[0]!r}"
            )
        return as_bytes(canvases)

    def to(self, device: torch.device | str) -> "PairRenderer":
        return replace(self, glyphs=self.glyphs.to(device))


def open_pairs(source: StyledPairs, root: Path | None) -> PairRenderer:
    """What draws the pairs of a source. Raises ValueError as `open_glyphs` does, and if one cannot be set apart."""
    glyphs, count = open_glyphs(source, root), source.num_images
    every = torch.arange(len(glyphs.labels))
    if source.set_apart is None:
        return PairRenderer(glyphs, source.size, source.seed, (every, every), count)
    kept, apart = hold_out(glyphs.labels.numpy(), source.set_apart.share, source.set_apart.seed)
    pools = every[kept], every[apart if source.set_apart.shown else kept]
    return PairRenderer(glyphs, source.size, source.seed, pools, count - round(source.set_apart.share * count))


def open_glyphs(source: StyledPairs, root: Path | None) -> Glyphs:
    """The digits of a source. Raises ValueError for a set of other than ten classes, or too small to be halved."""
    images = load(source.glyphs, source.split, root)
    if len(images.class_names) != len(DIGIT_NAMES):
        raise ValueError(
            f"pairs need a data set of the ten digits: {source.glyphs.name!r} has {len(images.class_names)} classes"
        )
    middle = len(images) // 2
    first, last = {"all": (0, len(images)), "first": (0, middle), "second": (middle, len(images))}[source.half]
    return Glyphs(images.batch(torch.arange(first, last)), images.labels[first:last], source.margin)


def canvases_of(glyphs: Glyphs, chosen: Tensor, ids: Tensor, seed: int, size: int) -> tuple[Tensor, Tensor]:
    """The glyphs at places `chosen` (n, 2) beside each other, (n, c, size, size) in [0, 1], and the classes (n,)."""
    digits = glyphs.pixels[chosen.flatten()].float() / 255
    fill = "border" if glyphs.in_colour else "zeros"
    placed = grid_sample(digits, _grid(ids, seed, size, glyphs.margin), padding_mode=fill, align_corners=False)
    left, right = placed.unflatten(0, (-1, 2)).unbind(1)
    values = glyphs.labels[chosen]
    return torch.cat([left, right], 3), values[:, 0] * len(DIGIT_NAMES) + values[:, 1]


def _grid(ids: Tensor, seed: int, size: int, margin: float) -> Tensor:
    """Where the pixels of each half canvas lie in their glyph, whose sides are at -1 and 1, (2n, size, size / 2, 2)."""
    scale, sway, rise = RandomNumbers(ids, seed, PLACEMENT).uniforms(6).view(-1, 3).T
    scale = (SCALES[0] + (SCALES[1] - SCALES[0]) * scale) / (1 - 2 * margin)
    across = _coordinates(size // 2, (2 * sway - 1) * SWAY * size, WIDTH * size / 2 * scale)
    down = _coordinates(size, (2 * rise - 1) * RISE * size, HEIGHT * size / 2 * scale)
    return torch.stack(torch.broadcast_tensors(across[:, None, :], down[:, :, None]), -1)


def _coordinates(length: int, shift: Tensor, half: Tensor) -> Tensor:
    """Pixel centres of a line, measured from its shifted middle in units of `half` a glyph, (n, length)."""
    centres = torch.arange(length, device=shift.device) + 0.5 - length / 2
    return (centres - shift[:, None]) / half[:, None]
