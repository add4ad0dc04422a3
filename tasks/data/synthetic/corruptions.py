"""The corruption suite of Hendrycks and Dietterich (2019) on the fly: fifteen kinds, five severities, any size.

Settings are those of their code, of CIFAR-10-C (32 pixels) below `SMALL` pixels and of ImageNet-C (224) above, with
lengths in proportion to the side. What differs, because a picture must come out the same in any batch, without pictures
from elsewhere, and worse at every severity:

* frost is drawn and laid over the picture, not cut from photographs and added to it; fog is noise of several octaves,
  not a diamond-square fractal, and roughens less;
* glass blur takes pixels from random neighbours rather than swapping them one after the other, ever further away;
* elastic transforms bend further with every severity, where theirs get finer but weaker; heavy snow falls thicker;
* pixels are merged into blocks that share none, rather than resampled;
* defocus blur uses a disc with exact edges, whose small radii have the spread of their anti-aliased ones;
* random numbers are those of `tasks.data.random_numbers`; beyond the border pictures go on as they end.

So numbers are comparable within this project, not with published ones on the distributed files.
"""

from functools import partial

from torch import Tensor

from amalgam.tasks.data.pixels import Images, changed
from amalgam.tasks.data.random_numbers import RandomNumbers
from amalgam.tasks.data.sources import CORRUPTIONS, MIN_SIDE
from amalgam.tasks.data.synthetic.distortions import DISTORTIONS
from amalgam.tasks.data.synthetic.styles import as_bytes

Settings = tuple[tuple[float, ...], ...]

SMALL = 96  # pixels
SMALLEST = 16  # pixels, below which a blur in proportion would be none
FIRST_PURPOSE = 200  # of `RandomNumbers`: below it are those of pairs and styles
LENGTHS = {
    "defocus_blur": (0,),
    "glass_blur": (0, 1),
    "motion_blur": (0, 1),
    "snow": (4, 5),
    "elastic_transform": (0, 1, 2),
}
"""Which settings of a kind are pixels."""

OF_32: dict[str, Settings] = {
    "gaussian_noise": ((0.04,), (0.06,), (0.08,), (0.09,), (0.10,)),
    "shot_noise": ((500,), (250,), (100,), (75,), (50,)),
    "impulse_noise": ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,)),
    "defocus_blur": ((0.8,), (1.0,), (1.2,), (1.35,), (1.65,)),
    "glass_blur": ((0.4, 0.25, 1), (0.4, 0.5, 1), (0.4, 0.75, 1), (0.4, 1, 1), (0.4, 1, 2)),
    "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    "zoom_blur": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    "snow": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.1, 0.2, 1, 0.5, 10, 4, 0.9), (0.15, 0.3, 1.75, 0.5, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85), (0.3, 0.3, 1.25, 0.55, 14, 12, 0.8),
    ),
    "frost": ((0.3,), (0.4,), (0.5,), (0.6,), (0.7,)),
    "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    "brightness": ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,)),
    "contrast": ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,)),
    "elastic_transform": ((0.15, 2, 0.5), (0.3, 2, 0.75), (0.5, 2, 1), (0.75, 2, 1.25), (1, 2, 1.5)),
    "pixelate": ((0.95,), (0.9,), (0.85,), (0.75,), (0.65,)),
    "jpeg_compression": ((80,), (65,), (58,), (50,), (40,)),
}  # fmt: skip
OF_224: dict[str, Settings] = {
    "gaussian_noise": ((0.08,), (0.12,), (0.18,), (0.26,), (0.38,)),
    "shot_noise": ((60,), (25,), (12,), (5,), (3,)),
    "impulse_noise": ((0.03,), (0.06,), (0.09,), (0.17,), (0.27,)),
    "defocus_blur": ((3,), (4,), (6,), (8,), (10,)),
    "glass_blur": ((0.7, 1, 2), (0.7, 1.5, 2), (0.7, 2.5, 2), (0.7, 3, 2), (0.7, 4, 2)),
    "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    "zoom_blur": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    "snow": (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.8, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.75, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.75, 12, 12, 0.55),
    ),
    "frost": ((0.5,), (0.65,), (0.8,), (0.9,), (1.0,)),
    "fog": ((1.5, 2), (2, 2), (2.5, 1.9), (3, 1.8), (4, 1.7)),
    "brightness": ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,)),
    "contrast": ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,)),
    "elastic_transform": ((1, 10, 4), (2, 10, 6), (3, 10, 8), (4, 10, 10), (6, 10, 12)),
    "pixelate": ((0.6,), (0.5,), (0.4,), (0.3,), (0.25,)),
    "jpeg_compression": ((25,), (18,), (15,), (10,), (7,)),
}  # fmt: skip


def corrupted(pixels: Tensor, ids: Tensor, corruption: str, severity: int, seed: int) -> Tensor:
    """The images `ids` (n,) in uint8, (n, c, h, w), corrupted; each depends on its number and the seed alone."""
    settings = settings_of(corruption, severity, min(pixels.shape[2:]))
    random = RandomNumbers(ids, seed, FIRST_PURPOSE + CORRUPTIONS.index(corruption))
    return as_bytes(DISTORTIONS[corruption](pixels.float() / 255, random, *settings))


def settings_of(corruption: str, severity: int, side: int) -> tuple[float, ...]:
    """The arguments of a kind at a severity for pictures of a side in pixels."""
    table, reference = (OF_32, 32) if side < SMALL else (OF_224, 224)
    scale, lengths = max(side, SMALLEST) / reference, LENGTHS.get(corruption, ())
    values = enumerate(table[corruption][severity - 1])
    return tuple(value * scale if place in lengths else value for place, value in values)


def corrupted_images(images: Images, corruption: str, severity: int, seed: int) -> Images:
    """Images that are corrupted whenever they are read; nothing is kept.

    Raises ValueError for images that are neither grey nor of three colours, or too small.
    """
    channels, height, width = images.shape
    if min(height, width) < MIN_SIDE or channels not in (1, 3):
        raise ValueError(
            f"corruptions need grey or RGB images of at least {MIN_SIDE} pixels, "
            f"got {channels} channels of {height} x {width}"
        )
    change = partial(corrupted, corruption=corruption, severity=severity, seed=seed)
    return changed(images, change, (corruption, severity, seed))
