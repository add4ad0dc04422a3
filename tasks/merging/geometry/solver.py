"""The one solve behind the methods: `x = (sum_t w_t H_t)^-1 sum_t w_t H_t x_t`, the curved mean of the tasks.

It minimises `F(x) = sum_t w_t (x - x_t)^T H_t (x - x_t)` (Matena & Raffel 2022; Lu et al. 2026, Proposition 1). Points
are task vectors, weights, or coordinates in a basis; metrics are `Diagonal` or `Dense`, all of one kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from amalgam.tasks.merging.geometry.metrics import Dense, Diagonal

FLOOR = 1e-12  # eigenvalues below this share of the largest carry no information in double precision
DIRECT = 256  # rows up to which eigenvalues are cheap


@dataclass(frozen=True)
class Solution:
    """The curved mean beside the flat one."""

    point: Tensor
    flat: Tensor
    """The plain weighted mean."""
    eta: float
    """`F(flat) - F(point)`, zero or more: what the curvature says that the flat mean loses (Lu et al. 2026, Thm 3)."""
    condition: float
    """Largest over smallest eigenvalue of the mean curvature; infinite if it is singular."""


def average(points: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """The flat mean, `H_t = I`."""
    return solve_diagonal(points, [Diagonal()] * len(points), weights)


def solve_diagonal(
    points: Sequence[Tensor],
    metrics: Sequence[Diagonal],
    weights: Sequence[float] | None = None,
    fallback: Tensor | None = None,
) -> Tensor:
    """The solve of each coordinate by itself, as a running mean: one point in memory, exact where all are equal.

    Where all metrics vanish the result is `fallback`, or the flat mean.
    """
    shares = equal_weights(points, weights)
    mean: Tensor | None = None
    total: Tensor | float = 0.0
    for point, metric, share in zip(points, metrics, shares, strict=True):
        weight = share * metric.values
        total = total + weight
        mean = point.clone() if mean is None else _toward(mean, point, weight, total)
    assert mean is not None
    if isinstance(total, Tensor) and bool((total == 0).any()):
        mean = torch.where(total == 0, average(points, shares) if fallback is None else fallback, mean)
    return mean


def solve(points: Sequence[Tensor], metrics: Sequence[Dense], weights: Sequence[float] | None = None) -> Solution:
    """The solve with full matrices, in double precision around the flat mean.

    With `c = sum_t w_t H_t x_t - H flat` the solution is `flat + H^-1 c`, and `eta = c^T H^-1 c`. Directions that no
    metric sees stay flat.
    """
    shares = equal_weights(points, weights)
    flat = average([point.double() for point in points], shares)
    hessian = sum_matrices(metrics, shares)
    pull = torch.zeros_like(flat)
    for point, metric, share in zip(points, metrics, shares, strict=True):
        pull += share * metric(point.double() - flat)
    step, condition = _solve_symmetric(hessian, pull)
    return Solution(flat + step, flat, float((pull * step).sum()), condition)


def objective(
    point: Tensor, points: Sequence[Tensor], metrics: Sequence[Dense], weights: Sequence[float] | None = None
) -> float:
    """`F(point)`: what the tasks lose there, to second order and up to a factor of 1/2."""
    shares = equal_weights(points, weights)
    distances = [point.double() - one.double() for one in points]
    return sum(
        share * float((away * metric(away)).sum())
        for away, metric, share in zip(distances, metrics, shares, strict=True)
    )


def equal_weights(points: Sequence[Tensor], weights: Sequence[float] | None) -> Sequence[float]:
    """The weights, equal ones if None."""
    return [1 / len(points)] * len(points) if weights is None else weights


def sum_matrices(metrics: Sequence[Dense], weights: Sequence[float]) -> Tensor:
    """`sum_t w_t H_t` in double precision."""
    total = torch.zeros_like(metrics[0].matrix, dtype=torch.float64)
    for metric, weight in zip(metrics, weights, strict=True):
        total.add_(metric.matrix.double(), alpha=weight)
    return total


def _toward(mean: Tensor, point: Tensor, weight: Tensor | float, total: Tensor | float) -> Tensor:
    # mean_t = mean_(t-1) + (w_t / W_t) (x_t - mean_(t-1)), with W_t the weights so far.
    if isinstance(weight, Tensor):
        assert isinstance(total, Tensor)
        return mean.lerp_(point, torch.where(total > 0, weight / total, 0).to(mean))
    return mean.lerp_(point, weight / total) if total else mean


def _solve_symmetric(matrix: Tensor, right: Tensor) -> tuple[Tensor, float]:
    """`right matrix^-1` along the last axis, and the condition number; the pseudo-inverse where it is singular.

    Large well-conditioned matrices are solved by Cholesky, whose pivots give a lower bound of the condition.
    """
    if len(matrix) > DIRECT:
        factor, failed = torch.linalg.cholesky_ex(matrix)
        pivots = factor.diagonal().square()
        if not int(failed) and float(pivots.min()) > FLOOR * len(matrix) * float(pivots.max()):
            rows = right if right.ndim > 1 else right[None]
            return torch.cholesky_solve(rows.T, factor).T.view_as(right), float(pivots.max() / pivots.min())
    values, vectors = torch.linalg.eigh(matrix)
    largest = float(values[-1])
    kept = values > FLOOR * len(values) * max(largest, 0.0)
    inverse = torch.where(kept, 1 / torch.where(kept, values, 1), 0)
    condition = largest / float(values[0]) if bool(kept.all()) else float("inf")
    return (right @ vectors) * inverse @ vectors.T, condition
