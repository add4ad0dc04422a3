"""Weakly and strongly augmented images (b, c, h, w) in [-1, 1], drawn from a generator."""

import math

import torch
from torch import Tensor
from torch.nn import functional

SHIFT = 0.1  # of an image's side, weak and strong
ANGLE = math.radians(20)  # strong
SIZE = 0.15  # strong: by how much an image may grow or shrink
NOISE = 0.15  # strong: deviation
HOLE = 0.35  # strong: side of the square that is blanked out, as a share of the image's


def weak(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shifted by up to a tenth; what enters is background, the darkest value."""
    count = len(images)
    return _moved(images, torch.zeros(count), torch.ones(count), _shifts(count, generator))


def strong(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shifted, turned, scaled, noisy, with a hole."""
    count, (height, width) = len(images), images.shape[2:]
    angle, size = (2 * torch.rand(2, count, generator=generator) - 1) * torch.tensor([[ANGLE], [SIZE]])
    moved = _moved(images, angle, 1 + size, _shifts(count, generator))
    moved = moved + NOISE * torch.randn(moved.shape, generator=generator).to(images.device)
    row, column = torch.rand(2, count, generator=generator)
    tall, wide = (torch.arange(side)[None] / side for side in (height, width))
    hole = ((tall - row[:, None]).abs() < HOLE / 2)[:, :, None] & ((wide - column[:, None]).abs() < HOLE / 2)[:, None]
    return moved.masked_fill(hole[:, None].to(images.device), -1).clamp(-1, 1)


def _shifts(count: int, generator: torch.Generator) -> Tensor:
    return (2 * torch.rand(count, 2, generator=generator) - 1) * 2 * SHIFT


def _moved(images: Tensor, angle: Tensor, size: Tensor, shift: Tensor) -> Tensor:
    cos, sin = torch.cos(angle) / size, torch.sin(angle) / size
    maps = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    grid = functional.affine_grid(maps, list(images.shape), align_corners=False).to(images.device)
    # Padding is 0 in grid_sample, so the darkest value -1 is moved to 0 and back.
    return functional.grid_sample(images + 1, grid, align_corners=False) - 1
