"""Means of directions: great circles and the Karcher mean on the unit sphere, tensors taken as flat vectors."""

from collections.abc import Sequence

import torch
from torch import Tensor

PARALLEL = 0.9995  # above this cosine a great circle is a line to rounding


def slerp(one: Tensor, other: Tensor, t: float) -> Tensor:
    """The point at share `t` of the way from one tensor to the other along the arc between them.

    A straight line where they are parallel, opposite or zero.
    """
    lengths = one.norm() * other.norm()
    cosine = float((one * other).sum() / lengths) if float(lengths) > 0 else 1.0
    if abs(cosine) > PARALLEL:
        return torch.lerp(one, other, t)
    angle = torch.tensor(cosine, dtype=torch.float64).acos()
    return (((1 - t) * angle).sin() / angle.sin()).to(one) * one + ((t * angle).sin() / angle.sin()).to(one) * other


def karcher_mean(points: Sequence[Tensor], weights: Sequence[float], iterations: int, tolerance: float) -> Tensor:
    """The direction whose mean way to all the others vanishes, times their weighted mean length.

    `u <- exp_u(sum_t w_t log_u u_t)` from the normalised mean; it stops when a step is shorter than `tolerance`.
    Tensors of zeros have no direction and count for the length alone; opposite directions give the plain mean.
    """
    lengths = [float(point.norm()) for point in points]
    units = [(point / length, w) for point, length, w in zip(points, lengths, weights, strict=True) if length > 0]
    mean = sum(w * unit for unit, w in units)
    if not isinstance(mean, Tensor) or float(mean.norm()) < 1e-8:
        return sum((w * point for point, w in zip(points, weights, strict=True)), torch.zeros_like(points[0]))
    direction = mean / mean.norm()
    share = sum(w for _, w in units)
    for _ in range(iterations):
        step = sum((w / share * _log(direction, unit) for unit, w in units), torch.zeros_like(direction))
        size = step.norm()
        if float(size) < tolerance:
            break
        direction = size.cos() * direction + size.sin() * step / size
        direction = direction / direction.norm()
    return direction * sum(w * length for length, w in zip(lengths, weights, strict=True))


def mean_cosine(vectors: Sequence[Tensor]) -> float | None:
    """Mean cosine over all pairs; None if one vector is zero."""
    flat = torch.stack([vector.flatten() for vector in vectors])
    lengths = flat.norm(dim=1)
    if float(lengths.min()) == 0:
        return None
    cosines = (flat @ flat.T) / (lengths[:, None] * lengths)
    count = len(vectors)
    return float((cosines.sum() - cosines.diagonal().sum()) / (count * (count - 1)))


def _log(at: Tensor, unit: Tensor) -> Tensor:
    """The tangent at `at` that leads to `unit`."""
    across = unit - (unit * at).sum() * at
    size = across.norm()
    angle = torch.atan2(size, (unit * at).sum())
    return across * (angle / size) if float(size) > 0 else torch.zeros_like(at)
