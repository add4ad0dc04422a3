"""Curvatures of a task around its weights: what a deviation of the merged network from that task costs.

Letters: p atoms, m x n a weight matrix.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 2**20  # entries of the Khatri-Rao product in memory at once: 4 MB in single precision, near the cache's size


@dataclass(frozen=True)
class Diagonal:
    """One non-negative number per coordinate, or one for all of them: identity, Fisher, sign consensus."""

    values: Tensor | float = 1.0

    def __call__(self, point: Tensor) -> Tensor:
        """`H x`."""
        return self.values * point


@dataclass(frozen=True)
class Dense:
    """A symmetric positive semi-definite matrix on the last axis of a point: `x H`.

    For a vector of p coordinates it is a projected Fisher; for a weight matrix (m, n) it is `I_m` times an input Gram.
    """

    matrix: Tensor

    def __call__(self, point: Tensor) -> Tensor:
        """`x H`, the same as `H x` as H is symmetric."""
        return point @ self.matrix.to(point)

    def damped(self, amount: float) -> "Dense":
        """`H + amount I`."""
        return Dense(self.matrix + amount * torch.eye(len(self.matrix), dtype=self.matrix.dtype))

    def divided(self, amount: float) -> "Dense":
        """`H / amount`, or H as it is where the amount is zero."""
        return Dense(self.matrix / amount) if amount > 0 else self

    @property
    def trace(self) -> float:
        """Sum of the diagonal."""
        return float(self.matrix.diagonal().sum())


def project_diagonal(fisher: Tensor, left: Tensor, right: Tensor) -> Dense:
    """`K^T diag(F) K` for the rank-1 atoms `u_i v_i^T`: a diagonal Fisher (m, n) in their coordinates, (p, p).

    Dense although F is diagonal. Takes `m n p^2` multiplications; the Khatri-Rao product K is made a few rows at a
    time. Exact up to the precision of `left` (m, p) and `right` (n, p).
    """
    # Row (i, j) of K is u_i * v_j, and K^T diag(F) K = (F^1/2 K)^T (F^1/2 K), a sum over rows of F.
    total = torch.zeros(left.shape[1], left.shape[1], dtype=torch.float64)
    for rows in _row_chunks(fisher, left.shape[1]):
        roots = fisher[rows].to(left).clamp_min(0).sqrt_()
        weighted = (left[rows][:, None] * right).mul_(roots[:, :, None])
        flat = weighted.reshape(-1, left.shape[1])
        total += (flat.T @ flat).double()
    return Dense(total)


def project_factored(factors: Tensor, left: Tensor, right: Tensor) -> Dense:
    """The same for `F = a b^T / sum a`, known by its row sums a (m) and column sums b (n): `(m + n) p^2` operations.

    Exact if and only if F has rank 1.
    """
    # sum_ij a_i b_j (u_ip v_jp) (u_iq v_jq) is the product of a sum over i and one over j, entry by entry.
    rows, columns = factors.double().split([len(left), len(right)])
    u, v = left.double(), right.double()
    total = rows.sum()
    shares = columns / total if total > 0 else torch.zeros_like(columns)
    return Dense((u.T @ (rows[:, None] * u)) * (v.T @ (shares[:, None] * v)))


def project_samples(gradients: Tensor) -> Dense:
    """The Fisher of gradients (examples, p) that already lie in the atoms' coordinates; of rank at most examples."""
    wide = gradients.double()
    return Dense(wide.T @ wide / max(1, len(wide)))


def _row_chunks(matrix: Tensor, num_atoms: int) -> Iterator[slice]:
    rows, columns = matrix.shape
    step = max(1, CHUNK // (columns * num_atoms))
    return (slice(start, start + step) for start in range(0, rows, step))
