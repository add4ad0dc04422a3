"""Parts of an image, and which of them a latent reads: the one without which it loses most of its activation.

Parts are the cells around dispersed seeds among the patches of a grid:

    c_1 random;  c_(j+1) = argmax_x min_(i<=j) |x - c_i|^2;  cell(x) = argmin_j |x - c_j|^2

Farthest-point sampling and its Voronoi cells, as in the background proxies of Zhang et al. (2022), FPTrans. Hiding a
part means giving it the image's mean colour, so any encoder can be explained, with or without tokens (occlusion,
Zeiler and Fergus 2014).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

GRID = 8  # patches along a side that parts are made of
NUM_PARTS = 6


@dataclass(frozen=True)
class Partition:
    """A partition of points into cells, each with its seed."""

    seeds: Tensor
    """(parts,): places of the seeds among the points."""
    cells: Tensor
    """(points,): the part that each point belongs to."""

    def pooled(self, features: Tensor) -> Tensor:
        """Means (parts, width) of features (points, width) over each cell."""
        sums = torch.zeros(len(self.seeds), features.shape[1], dtype=features.dtype)
        counts = torch.bincount(self.cells, minlength=len(self.seeds)).to(features.dtype)
        return sums.index_add(0, self.cells, features) / counts[:, None]


def parts_of(points: Tensor, num_parts: int, generator: torch.Generator) -> Partition:
    """At most `num_parts` parts of points (points, dimensions), fewer where fewer points differ.

    The first seed is drawn from the generator. Raises ValueError for no points or no parts.
    """
    if points.ndim != 2 or not len(points) or num_parts < 1:
        raise ValueError(
            f"points must be (points, dimensions) and num_parts 1 or more, got {tuple(points.shape)} and {num_parts}"
        )
    points = points.double()
    seeds = [int(torch.randint(len(points), (1,), generator=generator))]
    nearest, cells = (points - points[seeds[0]]).square().sum(1), torch.zeros(len(points), dtype=torch.long)
    while len(seeds) < num_parts and nearest.max() > 0:
        seeds.append(int(nearest.argmax()))
        distance = (points - points[seeds[-1]]).square().sum(1)
        cells[distance < nearest] = len(seeds) - 1
        nearest = torch.minimum(nearest, distance)
    return Partition(torch.tensor(seeds), cells)


def grid_points(height: int, width: int) -> Tensor:
    """Coordinates (height * width, 2) of the patches of an image, row by row."""
    return torch.cartesian_prod(torch.arange(height), torch.arange(width)).reshape(-1, 2)


@dataclass(frozen=True)
class ReadPart:
    """One part of an image."""

    mask: Tensor
    """(height, width) of bool."""
    share: float
    """Share of the latent's activation that is lost without the part; at most 1 where it stays active, 0 at least."""


@torch.no_grad()
def read_part(
    activations: Callable[[Tensor], Tensor], image: Tensor, latent: int, num_parts: int = NUM_PARTS, seed: int = 0
) -> ReadPart:
    """The part of an image (channels, height, width) that a latent reads most.

    `activations` maps images (n, channels, height, width) to activations (n, num_latents). Raises ValueError if the
    latent is not active in the image.
    """
    masks = part_masks(image.shape[1], image.shape[2], num_parts, seed).to(image.device)
    mean = image.mean((1, 2), keepdim=True)
    hidden = torch.where(masks[:, None], mean, image)
    whole, *without = activations(torch.cat([image[None], hidden]))[:, latent].tolist()
    if whole <= 0:
        raise ValueError(f"latent {latent} is not active in this image: no part of it is read")
    lost = [max(0.0, whole - value) / whole for value in without]
    most = max(range(len(lost)), key=lost.__getitem__)
    return ReadPart(masks[most].cpu(), min(1.0, lost[most]))


def part_masks(height: int, width: int, num_parts: int, seed: int = 0) -> Tensor:
    """A partition (parts, height, width) of an image's pixels, as bool."""
    rows, columns = min(GRID, height), min(GRID, width)
    cells = parts_of(grid_points(rows, columns), num_parts, torch.Generator().manual_seed(seed)).cells
    pixels = interpolate(cells.reshape(1, 1, rows, columns).float(), (height, width), mode="nearest")[0, 0].long()
    return torch.stack([pixels == part for part in range(int(cells.max()) + 1)])


def outlined(pixels: Tensor, mask: Tensor, colour: tuple[int, int, int]) -> Tensor:
    """The image, uint8 (channels, height, width), as RGB with the border of a part drawn inside of it."""
    around = torch.nn.functional.pad(mask[None, None].float(), (1, 1, 1, 1))
    inner = -torch.nn.functional.max_pool2d(-around, 3, stride=1)[0, 0] > 0
    border = mask & ~inner
    rgb = pixels.expand(3, -1, -1).clone()
    rgb[:, border] = torch.tensor(colour, dtype=torch.uint8)[:, None]
    return rgb
