"""The fifteen kinds of corruption of Hendrycks and Dietterich (2019), one function each; `corruptions` says how strong.

A function takes pictures (n, c, h, w) in [0, 1], of one channel or three, their `RandomNumbers`, and the settings of
one severity, in which lengths are pixels. Values outside [0, 1] are clipped by the caller.
"""

from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from amalgam.tasks.data.random_numbers import RandomNumbers
from amalgam.tasks.data.synthetic.filters import blurred, clouds, defocused, motion_blurred, moved, sampled, zoomed

LUMINANCE = (0.299, 0.587, 0.114)
ICE = (0.8, 0.9, 1.0)  # the colour of frost
SMALL_MEAN = 8.0  # of a Poisson variable, above which its quantiles follow from those of a normal one
MOST_EVENTS = 30  # that a Poisson variable of at most that mean has, but for one time in a billion


def gaussian_noise(pictures: Tensor, random: RandomNumbers, scale: float) -> Tensor:
    return pictures + scale * _normals(pictures, random)


def shot_noise(pictures: Tensor, random: RandomNumbers, photons: float) -> Tensor:
    """Poisson noise where white is `photons` events."""
    level = random.uniforms(pictures[0].numel()).view_as(pictures)
    return _poisson(pictures * photons, level) / photons


def impulse_noise(pictures: Tensor, random: RandomNumbers, share: float) -> Tensor:
    """A share of all values set to 0 or to 1."""
    drawn = random.uniforms(pictures[0].numel()).view_as(pictures)
    return torch.where(drawn < share / 2, 0.0, torch.where(drawn >= 1 - share / 2, 1.0, pictures))


def defocus_blur(pictures: Tensor, random: RandomNumbers, radius: float) -> Tensor:
    return defocused(pictures, radius)


def glass_blur(pictures: Tensor, random: RandomNumbers, sigma: float, reach: float, times: int) -> Tensor:
    """Pixels taken from random neighbours up to `reach` away, several times over, between two blurs."""
    pictures = blurred(pictures, sigma)
    height, width = pictures.shape[2:]
    for part in range(times):
        steps = (2 * random.uniforms(2 * height * width, part) - 1).view(-1, 2, height, width) * (reach + 0.5)
        down, right = steps.round().unbind(1)
        pictures = moved(pictures, down, right)
    return blurred(pictures, sigma)


def motion_blur(pictures: Tensor, random: RandomNumbers, radius: float, sigma: float) -> Tensor:
    return motion_blurred(pictures, radius, sigma, 90 * random.uniforms(1)[:, 0] - 45)


def zoom_blur(pictures: Tensor, random: RandomNumbers, furthest: float, step: float) -> Tensor:
    """The mean of the picture and of enlargements from 1 to almost `furthest`."""
    factors = torch.arange(1, furthest, step).tolist()
    return (pictures + sum(zoomed(pictures, factor) for factor in factors)) / (len(factors) + 1)


def snow(
    pictures: Tensor,
    random: RandomNumbers,
    mean: float,
    spread: float,
    zoom: float,
    threshold: float,
    radius: float,
    sigma: float,
    kept: float,
) -> Tensor:
    """Flakes blown over a picture whose colours are paled."""
    flakes = zoomed(mean + spread * _normals(pictures[:, :1], random), max(1.0, zoom))
    flakes = torch.where(flakes < threshold, 0.0, flakes).clamp(0, 1)
    flakes = motion_blurred(flakes, radius, sigma, -45 - 90 * random.uniforms(1, part=1)[:, 0])
    pale = torch.maximum(pictures, 1.5 * _grey(pictures) + 0.5)
    return kept * pictures + (1 - kept) * pale + flakes + flakes.flip(2, 3)


def frost(pictures: Tensor, random: RandomNumbers, opacity: float) -> Tensor:
    """Ridges of ice over a picture."""
    ridges = 1 - (2 * clouds(random, max(pictures.shape[2:]), 1.5) - 1).abs()
    ridges = ridges[:, :, : pictures.shape[2], : pictures.shape[3]]
    colour = torch.tensor(ICE).view(3, 1, 1) if pictures.shape[1] == 3 else 1.0
    return pictures + opacity * ridges**2 * (colour - pictures)


def fog(pictures: Tensor, random: RandomNumbers, thick: float, decay: float) -> Tensor:
    """Clouds are added, and the whole is dimmed to the brightness that it had."""
    mist = clouds(random, max(pictures.shape[2:]), decay)[:, :, : pictures.shape[2], : pictures.shape[3]]
    brightest = pictures.amax((1, 2, 3), keepdim=True)
    return (pictures + thick * mist) * brightest / (brightest + thick)


def brightness(pictures: Tensor, random: RandomNumbers, more: float) -> Tensor:
    """The value of hue, saturation and value is raised, which leaves the other two."""
    value = pictures.amax(1, keepdim=True)
    raised = (value + more).clamp(max=1)
    return torch.where(value > 0, pictures * (raised / value.clamp(min=1e-6)), raised)


def contrast(pictures: Tensor, random: RandomNumbers, kept: float) -> Tensor:
    means = pictures.mean((2, 3), keepdim=True)
    return means + kept * (pictures - means)


def elastic_transform(pictures: Tensor, random: RandomNumbers, sway: float, grain: float, tilt: float) -> Tensor:
    """Bent: pixels are taken from `sway` away, smoothly over `grain`, in a frame whose corners are moved by `tilt`."""
    height, width = pictures.shape[2:]
    field = blurred(random.normals(2 * height * width).view(-1, 2, height, width), grain)
    field = sway * field / field.std((2, 3), keepdim=True)
    corners = tilt * (2 * random.uniforms(6, part=1) - 1).view(-1, 2, 3)
    down, across = torch.linspace(-1.5, 1.5, height)[:, None], torch.linspace(-1.5, 1.5, width)[None, :]
    # Shares of the corners (1, 1), (1, -1) and (-1, -1) in each point, which sum to 1: an affine map.
    shares = torch.stack(torch.broadcast_tensors((1 + across) / 2, (down - across) / 2, (1 - down) / 2))
    # A sum rather than a matrix product, whose last bits would depend on how many pictures there are.
    bent = field + sum(corners[:, :, k, None, None] * shares[k] for k in range(3))
    rows, columns = torch.arange(height)[:, None] + bent[:, 0], torch.arange(width)[None, :] + bent[:, 1]
    return sampled(pictures, rows, columns)


def pixelate(pictures: Tensor, random: RandomNumbers, share: float) -> Tensor:
    """Cut into blocks of one colour, so many that `share` of the side is their number."""
    for axis in (2, 3):
        side = pictures.shape[axis]
        number = max(1, int(side * share))
        block = torch.arange(side) * number // side
        same = (block[:, None] == block[None, :]).float()
        pictures = torch.einsum("nchw,ah->ncaw" if axis == 2 else "nchw,aw->ncha", pictures, same / same.sum(1))
    return pictures


def jpeg_compression(pictures: Tensor, random: RandomNumbers, quality: int) -> Tensor:
    whole = (pictures * 255).round().to(torch.uint8).movedim(1, -1).numpy()
    grey = pictures.shape[1] == 1
    coded = [_through_jpeg(Image.fromarray(one[:, :, 0] if grey else one), quality) for one in whole]
    return torch.from_numpy(np.stack(coded)).view(len(whole), *whole.shape[1:]).movedim(-1, 1) / 255


def _through_jpeg(picture: Image.Image, quality: int) -> NDArray[np.uint8]:
    stream = BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return np.array(Image.open(stream))


def _normals(pictures: Tensor, random: RandomNumbers) -> Tensor:
    return random.normals(pictures[0].numel()).view_as(pictures)


def _grey(pictures: Tensor) -> Tensor:
    if pictures.shape[1] == 1:
        return pictures
    return (pictures * torch.tensor(LUMINANCE).view(3, 1, 1)).sum(1, keepdim=True)


def _poisson(means: Tensor, levels: Tensor) -> Tensor:
    """The quantiles at `levels` of Poisson variables: counted up for small means, else by Cornish and Fisher."""
    normal = torch.special.ndtri(levels.double().clamp(1e-8, 1 - 1e-8)).float()
    large = (means + means.sqrt() * normal + (normal**2 - 1) / 6).round()
    few = means.clamp(max=SMALL_MEAN)
    term = torch.exp(-few)
    reached, count = term.clone(), torch.zeros_like(means)
    for events in range(1, MOST_EVENTS):
        count += levels >= reached
        term = term * few / events
        reached += term
    return torch.where(means < SMALL_MEAN, count, large.clamp(min=0))


DISTORTIONS: dict[str, Any] = {
    function.__name__: function
    for function in (
        gaussian_noise,
        shot_noise,
        impulse_noise,
        defocus_blur,
        glass_blur,
        motion_blur,
        zoom_blur,
        snow,
        frost,
        fog,
        brightness,
        contrast,
        elastic_transform,
        pixelate,
        jpeg_compression,
    )
}
"""Every kind by its name."""
