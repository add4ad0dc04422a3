"""Sums from which a linear layer is fitted by ridge regression: they add up over batches and shards in any order.

With inputs h (a 1 appended where there is a bias) and residuals e = target - current output, the change D of a layer
minimises sum |e - D h|^2 + rho |D|^2, so that the fitted layer stays where it was if nothing is left to explain.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

JITTER = 1e-10  # relative to the number of rows: keeps layers whose inputs are all 0 solvable


@dataclass(frozen=True)
class NormalEquations:
    """Sums over rows, float64: features include the constant 1, last, where the layer has a bias.

    Where parts of a layer read features of their own (groups of a convolution), all have a first axis of parts.
    """

    gram: Tensor
    """(features, features): sum of h h^T."""
    cross: Tensor
    """(units, features): sum of e h^T."""
    squares: Tensor
    """(units,): sum of e^2."""
    num_rows: int

    @classmethod
    def of(cls, inputs: Tensor, residuals: Tensor) -> "NormalEquations":
        """The sums of one batch: `inputs` (rows, features), `residuals` (rows, units)."""
        gram, cross = inputs.mT @ inputs, residuals.mT @ inputs
        return cls(gram.double(), cross.double(), residuals.double().square().sum(-2), inputs.shape[-2])

    def __add__(self, other: "NormalEquations") -> "NormalEquations":
        return NormalEquations(
            self.gram + other.gram,
            self.cross + other.cross,
            self.squares + other.squares,
            self.num_rows + other.num_rows,
        )

    def error(self, change: Tensor | float = 0.0) -> Tensor:
        """(units,): sum of squared residuals after `change` (units, features)."""
        # sum |e - D h|^2 = sum e^2 - 2 D cross^T + D gram D^T, row by row.
        change = torch.as_tensor(change, dtype=torch.float64, device=self.gram.device).expand_as(self.cross)
        return self.squares + ((change @ self.gram - 2 * self.cross) * change).sum(-1)

    def solve(self, ridge: float, allowed: Tensor | None, has_bias: bool) -> Tensor:
        """The change D, (units, features), zero wherever `allowed` (units, features) is False.

        The penalty is `ridge` times the mean square of the features; the constant is not penalised. Units that may
        read the same features share one factorisation.
        """
        penalty = self._penalty(ridge, has_bias)
        if allowed is None:
            return _solved(self.gram + penalty.diag_embed(), self.cross)
        change = torch.zeros_like(self.cross)
        patterns, pattern_of = allowed.to(self.gram.device).unique(dim=0, return_inverse=True)
        for index, pattern in enumerate(patterns):
            units, kept = (pattern_of == index).nonzero()[:, 0], pattern.nonzero()[:, 0]
            gram = self.gram[kept][:, kept] + penalty[kept].diag()
            change[units[:, None], kept] = _solved(gram, self.cross[units][:, kept])
        return change

    def moments(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance, each (units,), of the outputs of `weight` (units, features), the constant among them."""
        mean = (weight @ self.gram[..., -1:])[..., 0] / self.num_rows
        return mean, ((weight @ self.gram * weight).sum(-1) / self.num_rows - mean.square()).clamp_min(0)

    def _penalty(self, ridge: float, has_bias: bool) -> Tensor:
        diagonal = self.gram.diagonal(dim1=-2, dim2=-1)
        features = diagonal[..., :-1] if has_bias else diagonal
        penalty = (ridge * features.mean(-1, keepdim=True) + JITTER * self.num_rows).expand_as(diagonal).clone()
        if has_bias:
            penalty[..., -1] = 0.0
        return penalty


def _solved(gram: Tensor, cross: Tensor) -> Tensor:
    return torch.linalg.solve(gram, cross, left=False)
