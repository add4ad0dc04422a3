"""Apply a network to a volume larger than it was trained on: overlapping windows, averaged where they meet."""

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor


def starts(size: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one axis; the last one ends with the axis. Raises ValueError for one that cannot."""
    if not 0 < stride <= window <= size:
        raise ValueError(
            f"windows of {window} every {stride} do not cover an axis of {size}: 0 < stride <= window <= axis"
        )
    return [*range(0, size - window, stride), size - window]


@torch.no_grad()
def sliding_window(
    network: Callable[[Tensor], Tensor], volumes: Tensor, window: tuple[int, int, int], stride: tuple[int, int, int]
) -> Tensor:
    """Outputs (b, 1, z, h, w) of volumes of that shape, each voxel the mean of the windows that contain it."""
    total, count = torch.zeros_like(volumes), torch.zeros_like(volumes)
    axes = zip(volumes.shape[2:], window, stride, strict=True)
    for corner in product(*(starts(*axis) for axis in axes)):
        z, h, w = (slice(start, start + size) for start, size in zip(corner, window, strict=True))
        total[..., z, h, w] += network(volumes[..., z, h, w])
        count[..., z, h, w] += 1
    return total / count
