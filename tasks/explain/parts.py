"""Parts of an image: dispersed seeds among its patches, the cells around them, and features pooled by cell.

    c_1 random;  c_(j+1) = argmax_x min_(i<=j) |x - c_i|^2;  cell(x) = argmin_j |x - c_j|^2

Farthest-point sampling and its Voronoi cells, as in the background proxies of Zhang et al. (2022), FPTrans.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Parts:
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


def parts_of(points: Tensor, num_parts: int, generator: torch.Generator) -> Parts:
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
    return Parts(torch.tensor(seeds), cells)


def grid_points(height: int, width: int) -> Tensor:
    """Coordinates (height * width, 2) of the patches of an image, row by row."""
    return torch.cartesian_prod(torch.arange(height), torch.arange(width)).reshape(-1, 2)
