"""Parts of an image: cells around dispersed seeds, over which the features of patches are pooled.

    c_1 random;  c_(j+1) = argmax_x min_(i<=j) |x - c_i|^2;  cell(x) = argmin_j |x - c_j|^2

Farthest-point sampling and its Voronoi cells, as in the background proxies of Zhang et al. (2022), FPTrans.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Partition:
    """A partition of points into cells, each with its seed."""

    seeds: Tensor
    """(parts,): places of the seeds among the points."""
    cells: Tensor
    """(points,): the part that each point belongs to."""

    def pooled(self, features: Tensor) -> Tensor:
        """Means (parts, width) of features (points, width) over each cell."""
        cells = self.cells.to(features.device)
        counts = torch.bincount(cells, minlength=len(self.seeds)).to(features.dtype)
        return features.new_zeros(len(self.seeds), features.shape[1]).index_add(0, cells, features) / counts[:, None]


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


def grid_parts(rows: int, columns: int, num_parts: int) -> Partition:
    """Parts of a grid of patches, numbered row by row; always the same ones."""
    points = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).reshape(-1, 2)
    return parts_of(points, num_parts, torch.Generator().manual_seed(0))
