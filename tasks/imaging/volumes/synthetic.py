"""Volumes of three wavy layers with vessels in two of them: what is known of each voxel, and a noisy picture of it.

The structure shows layers brightly, vessels barely, and shadows below vessels; the flow shows vessels alone. As in OCT
and OCTA a column's projection of the flow is far easier to judge than its single voxels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from amalgam.tasks.imaging.volumes.projection import one_hot_layers

NUM_LAYERS = 3
REFLECTIVITY = (0.15, 0.75, 0.5)
"""Brightness of what lies outside, of the inner and of the outer layer."""
SHADOW = 0.35  # share of light that a vessel takes from all below it
CONTRAST = 0.12  # by how much a vessel is darker than its layer


@dataclass(frozen=True)
class Volumes:
    """Pairs of volumes, with the layers that are known of them."""

    structure: Tensor
    """(n, 1, z, h, w) in [-1, 1]."""
    flow: Tensor
    """(n, 1, z, h, w) in [-1, 1]."""
    layers: Tensor
    """(n, 3, z, h, w), one-hot: outside, inner, outer."""

    def __len__(self) -> int:
        return len(self.structure)

    def __getitem__(self, places: Tensor | slice) -> "Volumes":
        return self.each(lambda part: part[places])

    def each(self, change: Callable[[Tensor], Tensor]) -> "Volumes":
        """All three, changed in one way."""
        return Volumes(change(self.structure), change(self.flow), change(self.layers))


def make_volumes(count: int, shape: tuple[int, int, int], seed: int, noise: float = 0.25) -> Volumes:
    """`count` volumes of (depth, height, width), drawn from the seed; `noise` is the deviation of structure voxels."""
    generator = torch.Generator().manual_seed(seed)
    labels = _labels(count, shape, generator)
    layers = one_hot_layers(labels, NUM_LAYERS)
    vessels = _vessels(count, shape, generator)
    flow = (vessels * (labels > 0)).unsqueeze(1)
    structure = torch.tensor(REFLECTIVITY)[labels].unsqueeze(1) - CONTRAST * flow
    light = 1 - SHADOW * torch.tanh(flow.cumsum(2) - flow)
    structure = structure * light + noise * torch.randn(structure.shape, generator=generator)
    return Volumes((2 * structure - 1).clamp(-1, 1), 2 * flow - 1, layers)


def _labels(count: int, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Labels (n, z, h, w): three surfaces part a volume into outside, inner layer, outer layer, outside."""
    depth, *sides = shape
    z = torch.arange(depth)[None, :, None, None]
    surfaces = [depth * (height + 0.06 * _waves(count, sides, generator)).unsqueeze(1) for height in (0.2, 0.5, 0.8)]
    inner, outer = ((surfaces[i] <= z) & (z < surfaces[i + 1]) for i in range(2))
    return inner.long() + 2 * outer.long()


def _waves(count: int, sides: list[int], generator: torch.Generator) -> Tensor:
    """Smooth fields (n, h, w) of deviation about 1: noise on a coarse grid, interpolated."""
    coarse = torch.randn(count, 1, 4, 4, generator=generator)
    return functional.interpolate(coarse, tuple(sides), mode="bicubic", align_corners=True).squeeze(1)


def _vessels(count: int, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Soft tubes (n, z, h, w) in [0, 1]: six wavy lines a volume, each at a depth of its own."""
    depth, height, width = shape
    z, h, w = (torch.arange(size).float() for size in shape)
    volumes = torch.zeros(count, depth, height, width)
    for _ in range(6):
        start, slope, phase, level = torch.rand(4, count, 1, generator=generator)
        along = height * start + width * (slope - 0.5) * w / width + 2 * torch.sin(w / 4 + 2 * math.pi * phase)
        across = (h[None, :, None] - along[:, None, :]) ** 2
        down = (z[None] - depth * (0.25 + 0.5 * level)) ** 2
        tube = torch.exp(-(down[:, :, None, None] + across[:, None]) / 2)
        volumes = torch.maximum(volumes, tube)
    return volumes
