"""Bases of a matrix space made of rank-1 atoms `u_i v_i^T`: one set per task (TSV-M), or one for all tasks together.

Letters: m x n a weight matrix, T tasks, k atoms of one task, p atoms in all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

COLLINEAR = 1e-6  # singular values of a stack of unit vectors below this: the polar factor is arbitrary


@dataclass(frozen=True)
class Atoms:
    """`left` (m, p) and `right` (n, p) are the atoms; `sigma` (T, p) each task's singular values at its own atoms."""

    left: Tensor
    right: Tensor
    sigma: Tensor

    def coordinates(self, matrix: Tensor) -> Tensor:
        """`u_i^T X v_i`, (p)."""
        return torch.einsum("mp,mp->p", self.left, matrix @ self.right)

    def lift(self, coordinates: Tensor) -> Tensor:
        """The matrix `U diag(x) V^T`."""
        return (self.left * coordinates.to(self.left)) @ self.right.T


def task_rank(shape: Sequence[int], num_tasks: int, rank: int | None) -> int:
    """Atoms of each task: at most `rank`, and few enough that all tasks' atoms can be orthogonal."""
    most = min(shape) // num_tasks
    return most if rank is None else min(rank, most)


def task_atoms(matrices: Sequence[Tensor], rank: int | None = None) -> Atoms | None:
    """The leading singular vectors of every task's matrix, made orthogonal to each other's (Gargiulo et al. 2024).

    Singular values that are zero to rounding give no atoms. None if no orthogonal atoms exist: all matrices are zero,
    there are more tasks than dimensions, or tasks share directions, as identical and collinear members do.
    """
    kept = task_rank(matrices[0].shape, len(matrices), rank)
    parts = [truncated_svd(matrix, kept) for matrix in matrices]
    counts = [len(values) for _, values, _ in parts]
    if not sum(counts):
        return None
    left, right = polar([u for u, _, _ in parts]), polar([v for _, _, v in parts])
    if left is None or right is None:
        return None
    sigma = torch.block_diag(*(values[None] for _, values, _ in parts))
    return Atoms(left, right, sigma)


def joint_atoms(matrix: Tensor) -> Atoms:
    """All singular vectors of one matrix, such as the sum of the tasks'."""
    left, values, right = signed_svd(matrix)
    return Atoms(left, right, values[None])


def truncated_svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """`U` (m, k), singular values (k), `V` (n, k): at most `rank` of them, none of zeros."""
    left, values, right = signed_svd(matrix)
    # The numerical rank, by the usual bound on rounding: without it noise would become directions.
    nonzero = int((values > values[0] * torch.finfo(values.dtype).eps * max(matrix.shape)).sum()) if len(values) else 0
    kept = min(rank, nonzero)
    return left[:, :kept], values[:kept], right[:, :kept]


def signed_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`U`, singular values, `V`; the largest entry of every left vector is positive, so that signs are reproducible."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    largest = left.gather(0, left.abs().argmax(0, keepdim=True))
    signs = torch.where(largest < 0, -1, 1).to(left)
    return left * signs, values, right.T * signs


def polar(stacked: Sequence[Tensor]) -> Tensor | None:
    """The matrix of orthonormal columns nearest to all the given columns; None if they are linearly dependent."""
    columns = torch.cat(list(stacked), dim=1)
    # Of the SVD U S V^T the factor U V^T is nearest in the Frobenius norm; it is arbitrary where S has zeros.
    left, values, right = torch.linalg.svd(columns.double(), full_matrices=False)
    if columns.shape[1] > columns.shape[0] or float(values[-1]) < COLLINEAR:
        return None
    return (left @ right).to(columns)


def common_and_own_atoms(matrices: Sequence[Tensor], common: float) -> Atoms | None:
    """Leading directions of the sum, and of what each task has outside them, made orthogonal (Marczak et al. 2025).

    The share `common` of all directions comes from the sum, the rest in equal numbers from the tasks. None if the
    directions are linearly dependent.
    """
    most = min(matrices[0].shape)
    # shared + T own = most: rounding may ask for more own directions than fit, and then each task has one less.
    own = round((most - int(common * most)) / len(matrices))
    shared = most - own * len(matrices)
    if shared < 0:
        own, shared = own - 1, most - (own - 1) * len(matrices)
    total = torch.stack(list(matrices)).sum(0)
    parts = [truncated_svd(total, shared)]
    left = parts[0][0]
    parts += [truncated_svd(matrix - left @ (left.T @ matrix), own) for matrix in matrices]
    u, v = polar([p[0] for p in parts]), polar([p[2] for p in parts])
    return None if u is None or v is None else Atoms(u, v, torch.cat([p[1] for p in parts])[None])
