"""Cross-dimensional supervision: a volume is judged by its average over each layer too (XOCT, Khosravi et al. 2025).

    P_l(V) = sum_z V s_l / (sum_z s_l + eps)

Letters: b batch, l layers, z depth, h height, w width; s_l is 1 where a voxel belongs to layer l.
"""

import torch
from torch import Tensor

EPS = 1e-6  # columns without the layer have the projection 0


def project(volumes: Tensor, layers: Tensor) -> Tensor:
    """Means (b, l, h, w) of volumes (b, 1, z, h, w) over each of the layers (b, l, z, h, w), column by column.

    Raises ValueError if their shapes do not fit.
    """
    if volumes.ndim != 5 or volumes.shape[1] != 1 or layers.ndim != 5 or layers.shape[2:] != volumes.shape[2:]:
        raise ValueError(
            f"volumes must be (batch, 1, depth, height, width) and layers (batch, layers, depth, height, width), "
            f"got {tuple(volumes.shape)} and {tuple(layers.shape)}"
        )
    return (volumes * layers).sum(2) / (layers.sum(2) + EPS)


def projection_loss(found: Tensor, wanted: Tensor, layers: Tensor) -> Tensor:
    """The sum over layers of the mean absolute difference of projections; arguments as in `project`."""
    return (project(found, layers) - project(wanted, layers)).abs().mean((0, 2, 3)).sum()


def projection_errors(found: Tensor, wanted: Tensor, layers: Tensor) -> Tensor:
    """Mean absolute error (l,) of each layer's projection, over the columns that the layer is present in."""
    present = layers.sum(2) > 0
    errors = (project(found, layers) - project(wanted, layers)).abs() * present
    return errors.sum((0, 2, 3)) / present.sum((0, 2, 3)).clamp_min(1)


def one_hot_layers(labels: Tensor, num_layers: int) -> Tensor:
    """Layers (b, l, z, h, w) of labels (b, z, h, w) in 0 .. l-1."""
    return torch.nn.functional.one_hot(labels, num_layers).movedim(-1, 1).float()
