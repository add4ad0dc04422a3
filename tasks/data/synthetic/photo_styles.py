"""Styles that photos are shown in: nine that pre-training sees, and the four kept for tests that drawings have too.

A style is a function of photos (n, 3, h, w) in [0, 1] and of `RandomNumbers`, as in `tasks.data.synthetic.styles`.
"""

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from amalgam.tasks.data.random_numbers import RandomNumbers
from amalgam.tasks.data.sources import StyledPhotos
from amalgam.tasks.data.synthetic.filters import blurred, in_blocks
from amalgam.tasks.data.synthetic.styles import (
    Style,
    as_bytes,
    low_contrast,
    negative,
    occluded,
    rotated,
)

FIRST_PURPOSE = 300  # of `RandomNumbers`: below it are those of pairs, styles of drawings and corruptions
LUMA = (0.299, 0.587, 0.114)  # shares of red, green and blue in brightness, ITU-R BT.601
SOBEL = ((-0.25, 0.0, 0.25), (-0.5, 0.0, 0.5), (-0.25, 0.0, 0.25))  # a jump by 1 is a slope of 1
DARKNESS = 2  # of a line for each unit of slope: a jump by half of all brightness is black
NOISE = 0.12  # standard deviation
LEVELS = 4  # of each channel of a posterised photo


def in_photo_style(style: str, photos: Tensor, ids: Tensor, seed: int) -> Tensor:
    """Photos (n, 3, h, w) in [0, 1] of the images `ids` (n,) as uint8 pictures of the same shape."""
    random = RandomNumbers(ids, seed, FIRST_PURPOSE + list(PHOTO_STYLES).index(style))
    return as_bytes(PHOTO_STYLES[style](photos, random)).expand(-1, 3, -1, -1).contiguous()


def _photo(photos: Tensor, random: RandomNumbers) -> Tensor:
    return photos


def _grey(photos: Tensor, random: RandomNumbers) -> Tensor:
    return (photos * torch.tensor(LUMA, device=photos.device)[:, None, None]).sum(1, keepdim=True)


def _sketch(photos: Tensor, random: RandomNumbers) -> Tensor:
    """Edges in black on white, the darker the steeper."""
    across = torch.tensor(SOBEL, device=photos.device)
    both = torch.stack([across, across.T]).unsqueeze(1)
    slopes = conv2d(pad(_grey(photos, random), (1, 1, 1, 1), mode="replicate"), both)
    return 1 - DARKNESS * slopes.square().sum(1, keepdim=True).sqrt()


def _posterised(photos: Tensor, random: RandomNumbers) -> Tensor:
    return (photos * (LEVELS - 1)).round() / (LEVELS - 1)


def _pixelated(photos: Tensor, random: RandomNumbers) -> Tensor:
    return in_blocks(photos, max(2, round(photos.shape[2] / 10)))


def _noisy(photos: Tensor, random: RandomNumbers) -> Tensor:
    return photos + NOISE * random.normals(photos[0].numel()).view_as(photos)


def _blurry(photos: Tensor, random: RandomNumbers) -> Tensor:
    return blurred(photos, photos.shape[2] / 20)


def _recoloured(photos: Tensor, random: RandomNumbers) -> Tensor:
    """Red for green for blue for red, or the other way round."""
    once = (random.uniforms(1) < 0.5)[:, :, None, None]
    return torch.where(once, photos.roll(1, 1), photos.roll(2, 1))


def _negative_noisy(photos: Tensor, random: RandomNumbers) -> Tensor:
    return 1 - _noisy(photos, random)


_SEEN: tuple[Style, ...] = (_photo, _grey, _sketch, negative, _posterised, _pixelated, _noisy, _blurry, _recoloured)
_UNSEEN: tuple[Style, ...] = (occluded, rotated, low_contrast, _negative_noisy)
PHOTO_STYLES: dict[str, Style] = dict(
    zip(StyledPhotos.seen_styles + StyledPhotos.unseen_styles, _SEEN + _UNSEEN, strict=True)
)
"""Every style by its name."""
