"""Blurring, warping and clouds for pictures (n, c, h, w) in [0, 1], each computed as if it were alone in its batch."""

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, grid_sample, interpolate, pad

from amalgam.tasks.data.random_numbers import RandomNumbers

SUPERSAMPLING = 8  # points on a pixel's side by which a disc's share of it is counted


def blurred(pictures: Tensor, sigma: float) -> Tensor:
    """Convolved with a Gaussian of `sigma` pixels, the border repeated outwards."""
    reach = math.ceil(3 * sigma)
    weights = torch.tensor([math.exp(-0.5 * (step / sigma) ** 2) for step in range(-reach, reach + 1)])
    weights = (weights / weights.sum()).to(pictures)
    for axis in (2, 3):
        sides = (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
        pictures = pad(pictures, sides, mode="replicate").unfold(axis, len(weights), 1) @ weights
    return pictures


def defocused(pictures: Tensor, radius: float) -> Tensor:
    """Convolved with a disc of `radius` pixels, the border repeated outwards."""
    reach = math.ceil(radius - 0.5)
    fine = (torch.arange((2 * reach + 1) * SUPERSAMPLING) + 0.5) / SUPERSAMPLING - reach - 0.5
    inside = (fine[:, None] ** 2 + fine[None, :] ** 2 <= radius**2).float()
    kernel = inside.unflatten(1, (-1, SUPERSAMPLING)).sum(2).unflatten(0, (-1, SUPERSAMPLING)).sum(1)
    kernel = (kernel / kernel.sum()).to(pictures)
    alone = pictures.flatten(0, 1).unsqueeze(1)
    return conv2d(pad(alone, (reach,) * 4, mode="replicate"), kernel[None, None])[:, 0].view_as(pictures)


def motion_blurred(pictures: Tensor, radius: float, sigma: float, degrees: Tensor) -> Tensor:
    """Smeared to one side along each picture's own angle (n,), half a Gaussian of `sigma` pixels, cut at 2 `radius`."""
    angles = torch.deg2rad(degrees.double()).float()
    steps = range(2 * math.ceil(radius) + 1)
    weights = [math.exp(-0.5 * (step / sigma) ** 2) for step in steps]
    total = torch.zeros_like(pictures)
    for step, weight in zip(steps, weights, strict=True):
        total += (
            weight
            / sum(weights)
            * moved(pictures, (step * angles.sin())[:, None, None], (step * angles.cos())[:, None, None])
        )
    return total


def moved(pictures: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Every pixel taken from where `down` and `right` point, in pixels, both to be broadcast to (n, h, w)."""
    height, width = pictures.shape[2:]
    rows = torch.arange(height, device=pictures.device)[:, None] + down
    columns = torch.arange(width, device=pictures.device)[None, :] + right
    return sampled(pictures, rows, columns)


def in_blocks(pictures: Tensor, side: int) -> Tensor:
    """Squares of `side` pixels, each all of its mean colour."""
    means = avg_pool2d(pictures, side, ceil_mode=True, count_include_pad=False)
    large = means.repeat_interleave(side, 2).repeat_interleave(side, 3)
    return large[:, :, : pictures.shape[2], : pictures.shape[3]]


def zoomed(pictures: Tensor, factor: float) -> Tensor:
    """The middle, enlarged to fill the picture."""
    height, width = pictures.shape[2:]
    rows = (torch.arange(height, device=pictures.device) - (height - 1) / 2) / factor + (height - 1) / 2
    columns = (torch.arange(width, device=pictures.device) - (width - 1) / 2) / factor + (width - 1) / 2
    return sampled(pictures, rows[None, :, None], columns[None, None, :])


def sampled(pictures: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Values between pixels, at positions to be broadcast to (n, h, w); beyond the border those of the border."""
    count, _, height, width = pictures.shape
    across, down = (2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1
    grid = torch.stack(torch.broadcast_tensors(across, down), -1).expand(count, height, width, 2)
    return grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def clouds(random: RandomNumbers, side: int, decay: float, part: int = 0) -> Tensor:
    """Clouds (n, 1, side, side) from 0 to 1: noise at every scale, each half as coarse and 1 / `decay` as strong."""
    total, octave = torch.zeros(len(random.ids), 1, side, side), 0
    while 2**octave < side:
        cells = 2 ** (octave + 1)
        noise = random.uniforms(cells * cells, part + octave).view(-1, 1, cells, cells)
        total += interpolate(noise, (side, side), mode="bilinear") / decay**octave
        octave += 1
    low, high = total.amin((2, 3), keepdim=True), total.amax((2, 3), keepdim=True)
    return (total - low) / (high - low)
