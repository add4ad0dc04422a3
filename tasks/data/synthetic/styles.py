"""Styles that grey drawings are rendered in: nine that pre-training sees, and four kept for tests.

A style is a function of canvases (n, 1, h, w), ink 1 on paper 0, and of `RandomNumbers`: what is random in an image
is drawn from (seed, image, style) alone. It gives (n, 1, h, w) or (n, 3, h, w); values outside [0, 1] are cut off.
Lengths are shares of the side, so that canvases of 16 to 64 pixels look alike.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, max_pool2d, pad

from amalgam.tasks.data.random_numbers import RandomNumbers
from amalgam.tasks.data.sources import SEEN_STYLES, UNSEEN_STYLES
from amalgam.tasks.data.synthetic.filters import blurred, in_blocks

Style = Callable[[Tensor, RandomNumbers], Tensor]

FIRST_PURPOSE = 100  # of `RandomNumbers`: below it are those of the pairs themselves
NUM_WAVES = 3  # that a texture is made of
NOISE = 0.2 / 28  # standard deviation for each pixel of the side
ROTATION = 25  # degrees, to the left or to the right
SHRINK = 0.85  # of a rotated drawing, so that its corners stay in the picture


def in_style(style: str, canvases: Tensor, ids: Tensor, seed: int) -> Tensor:
    """Canvases (n, h, w) in [0, 1] of the images `ids` (n,) as uint8 pictures (n, 3, h, w)."""
    random = RandomNumbers(ids, seed, FIRST_PURPOSE + list(STYLES).index(style))
    drawn = STYLES[style](canvases.unsqueeze(1), random)
    return as_bytes(drawn).expand(-1, 3, -1, -1).contiguous()


def as_bytes(pictures: Tensor) -> Tensor:
    """Pictures in [0, 1], cut off there, to the nearest of 256 levels."""
    return (pictures * 255).round_().clamp_(0, 255).to(torch.uint8)


def _plain(canvases: Tensor, random: RandomNumbers) -> Tensor:
    return canvases


def negative(canvases: Tensor, random: RandomNumbers) -> Tensor:
    return 1 - canvases


def _colour(canvases: Tensor, random: RandomNumbers) -> Tensor:
    """Bright ink of one hue on dark paper of another."""
    hue, gap, vivid, dark = random.uniforms(4).T
    ink = _rgb(hue, 0.5 + 0.5 * vivid, torch.ones_like(hue))
    paper = _rgb(hue + 0.25 + 0.5 * gap, torch.ones_like(hue), 0.2 + 0.3 * dark)
    return paper + canvases * (ink - paper)


def _texture(canvases: Tensor, random: RandomNumbers) -> Tensor:
    """White ink on a coloured weave of plane waves."""
    height, width = canvases.shape[2:]
    rows = (torch.arange(height, device=canvases.device) + 0.5) / height
    columns = (torch.arange(width, device=canvases.device) + 0.5) / width
    drawn = random.uniforms(NUM_WAVES * 6).unflatten(1, (NUM_WAVES, 6)).double()
    cycles, angle, phase = (2 + 4 * drawn[..., 0]), 2 * math.pi * drawn[..., 1], 2 * math.pi * drawn[..., 2]
    across, down = cycles * angle.cos(), cycles * angle.sin()
    # sin(a + b) from the sines of a and b: two short tables for each wave in place of a picture of sines.
    one = 2 * math.pi * down[..., None] * rows + phase[..., None]
    two = 2 * math.pi * across[..., None] * columns
    sines = torch.einsum("nkr,nkc->nkrc", one.sin(), two.cos()) + torch.einsum("nkr,nkc->nkrc", one.cos(), two.sin())
    paper = 0.3 + torch.einsum("nkrc,nkj->njrc", sines, 0.3 * (drawn[..., 3:] - 0.5)).float()
    return paper + canvases * (1 - paper)


def _outline(canvases: Tensor, random: RandomNumbers) -> Tensor:
    """Only the edges of the ink."""
    return 1.2 * (_dilated(canvases, 3) - canvases)


def _noisy(canvases: Tensor, random: RandomNumbers) -> Tensor:
    return 0.2 + 0.6 * canvases + _noise(canvases, random)


def _blurry(canvases: Tensor, random: RandomNumbers) -> Tensor:
    return 1.3 * blurred(canvases, canvases.shape[2] / 16)


def _pixelated(canvases: Tensor, random: RandomNumbers) -> Tensor:
    block = max(2, round(canvases.shape[2] / 10))
    return 1.2 * in_blocks(canvases, block)


def _bold(canvases: Tensor, random: RandomNumbers) -> Tensor:
    return 1.4 * _dilated(canvases, max(2, round(canvases.shape[2] / 10)))


def occluded(canvases: Tensor, random: RandomNumbers) -> Tensor:
    """A grey bar across, level or upright, hides a part."""
    side, (level, place) = canvases.shape[2], random.uniforms(2).T
    thick = max(2, round(0.15 * side))
    start = (side * 0.2 + place * (side * 0.6 - thick)).floor()[:, None]
    line = torch.arange(side, device=canvases.device)
    bar = ((line >= start) & (line < start + thick))[:, None, :, None]
    hidden = torch.where((level < 0.5)[:, None, None, None], bar, bar.transpose(2, 3))
    return torch.where(hidden, 0.6, canvases)


def rotated(canvases: Tensor, random: RandomNumbers) -> Tensor:
    side = canvases.shape[2]
    sign = (random.uniforms(1) < 0.5).float()[:, :, None] * 2 - 1
    centres = (2 * torch.arange(side, device=canvases.device) + 1) / side - 1
    across, down = centres[None, None, :] / SHRINK, centres[None, :, None] / SHRINK
    cosine, sine = math.cos(math.radians(ROTATION)), sign * math.sin(math.radians(ROTATION))
    grid = torch.stack([cosine * across - sine * down, sine * across + cosine * down], -1)
    return grid_sample(canvases, grid, align_corners=False)


def low_contrast(canvases: Tensor, random: RandomNumbers) -> Tensor:
    return random.between(0.3, 0.6) + 0.15 * canvases


def _negative_noisy(canvases: Tensor, random: RandomNumbers) -> Tensor:
    return 0.8 - 0.6 * canvases + _noise(canvases, random)


_SEEN: tuple[Style, ...] = (_plain, negative, _colour, _texture, _outline, _noisy, _blurry, _pixelated, _bold)
_UNSEEN: tuple[Style, ...] = (occluded, rotated, low_contrast, _negative_noisy)
STYLES: dict[str, Style] = dict(zip(SEEN_STYLES + UNSEEN_STYLES, _SEEN + _UNSEEN, strict=True))
"""Every style by its name."""


def _rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Colours (n, 3, 1, 1); hue is in turns."""
    offsets = torch.tensor([5.0, 3.0, 1.0], device=hue.device)
    sector = (offsets + 6 * hue[:, None]) % 6
    share = torch.minimum(sector, 4 - sector).clamp(0, 1)
    return (value[:, None] * (1 - saturation[:, None] * share))[:, :, None, None]


def _noise(canvases: Tensor, random: RandomNumbers) -> Tensor:
    """Weaker on small canvases, where a digit has fewer pixels."""
    return NOISE * canvases.shape[2] * random.normals(canvases[0].numel()).view_as(canvases)


def _dilated(canvases: Tensor, width: int) -> Tensor:
    """Each pixel the brightest of a square of `width` around it."""
    before = (width - 1) // 2
    return max_pool2d(pad(canvases, (before, width - 1 - before) * 2), width, stride=1)
