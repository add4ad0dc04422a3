"""Train on crops of volumes; apply a network to whole ones by overlapping windows, averaged where they meet."""

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from amalgam.tasks.imaging.volumes.config import Shape
from amalgam.tasks.imaging.volumes.synthetic import Volumes


def starts(size: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one axis; the last one ends with the axis. Raises ValueError for one that cannot."""
    if not 0 < stride <= window <= size:
        raise ValueError(
            f"windows of {window} every {stride} do not cover an axis of {size}: 0 < stride <= window <= axis"
        )
    return [*range(0, size - window, stride), size - window]


def cropped(volumes: Volumes, window: Shape | None, generator: torch.Generator) -> Volumes:
    """Volumes cut to a window at a random place, one for the whole batch; whole where there is no window."""
    if window is None:
        return volumes
    sizes = zip(volumes.structure.shape[2:], window, strict=True)
    corner = [int(torch.randint(size - side + 1, (), generator=generator)) for size, side in sizes]
    z, h, w = (slice(start, start + side) for start, side in zip(corner, window, strict=True))
    return volumes.each(lambda part: part[..., z, h, w])


@torch.no_grad()
def sliding_window(network: Callable[[Tensor], Tensor], volumes: Tensor, window: Shape, stride: Shape) -> Tensor:
    """Outputs (b, 1, z, h, w) of volumes of that shape, each voxel the mean of the windows that contain it."""
    total, count = torch.zeros_like(volumes), torch.zeros_like(volumes)
    axes = zip(volumes.shape[2:], window, stride, strict=True)
    for corner in product(*(starts(*axis) for axis in axes)):
        z, h, w = (slice(start, start + size) for start, size in zip(corner, window, strict=True))
        total[..., z, h, w] += network(volumes[..., z, h, w])
        count[..., z, h, w] += 1
    return total / count
