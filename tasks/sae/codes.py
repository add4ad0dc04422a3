"""Which latents are active, and how strongly: the sparsity rules on pre-activations.

Leading axes are free: (batch,) for one autoencoder, (batch, stack) for several that are trained together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from amalgam.tasks.sae.rules import BatchTopK, JumpReLU, Sparsity


@dataclass(frozen=True)
class Codes:
    """Sparse codes: of each example, a few latents and their activations."""

    indices: Tensor
    """Latents, (..., K), different ones within an example."""
    values: Tensor
    """Activations, (..., K); 0 fills up examples with fewer than K active latents."""
    num_latents: int
    """Latents that there are."""

    @property
    def active(self) -> Tensor:
        """Which entries are more than filling, (..., K)."""
        return self.values != 0

    def dense(self) -> Tensor:
        """The activations of all latents, (..., num_latents)."""
        zeros = self.values.new_zeros(*self.values.shape[:-1], self.num_latents)
        return zeros.scatter(-1, self.indices, self.values)

    def decode(self, atoms: Tensor) -> Tensor:
        """Sum of activations times atoms, (..., width), for atoms (stack, num_latents, width) or without a stack.

        Only the atoms of active latents are read.
        """
        *stack, num_latents, width = atoms.shape
        rows_RD, indices_NK = atoms.reshape(-1, width), self._among(stack, num_latents)
        values_NK = self.values.reshape(indices_NK.shape)
        # Its own gradient by the atoms sorts indices, and takes three times as long as a sparse product on a CPU.
        total = embedding_bag(indices_NK, rows_RD.detach(), per_sample_weights=values_NK, mode="sum")
        total = _GradientByRows.apply(total, rows_RD, indices_NK, values_NK.detach())
        return total.reshape(*self.values.shape[:-1], width)

    def weighted_sums(self, examples: Tensor) -> Tensor:
        """Of each latent, the sum of examples (batch, stack, width) times its activation, (stack, num_latents, width).

        What `decode` does to codes of one latent, transposed.
        """
        *stack, width = examples.shape[1:]
        indices_NK = self._among(stack, self.num_latents)
        totals = _sums_by_index(
            indices_NK, self.values.reshape(indices_NK.shape), examples.reshape(-1, width),
            prod(stack) * self.num_latents,
        )  # fmt: skip
        return totals.reshape(*stack, self.num_latents, width)

    def _among(self, stack: Sequence[int], num_latents: int) -> Tensor:
        """The latents' places among those of all autoencoders of a stack, (examples, K)."""
        first = torch.arange(0, prod(stack) * num_latents, num_latents, device=self.indices.device)
        return (self.indices + first.reshape(*stack, 1)).reshape(-1, self.indices.shape[-1])

    def prefix(self, num_latents: int) -> "Codes":
        """The codes without the latents from `num_latents` on."""
        return replace(self, values=self.values * (self.indices < num_latents))

    def l0(self) -> Tensor:
        """Active latents of each example, (...)."""
        return self.active.sum(-1)

    def sums(self) -> Tensor:
        """The activations of each latent summed over the first axis, (..., num_latents)."""
        totals = self.values.new_zeros(*self.values.shape[1:-1], self.num_latents)
        by_stack = (entries.movedim(0, -2).flatten(-2) for entries in (self.indices, self.values))
        return totals.scatter_add(-1, *by_stack)

    def fired(self) -> Tensor:
        """How many examples each latent is active in, counted over the first axis, (..., num_latents)."""
        return replace(self, values=self.active.to(self.values.dtype)).sums()


class _GradientByRows(torch.autograd.Function):
    """A weighted sum of a few rows for each example, with its gradient by the rows."""

    @staticmethod
    def forward(ctx: Any, total_ND: Tensor, rows_RD: Tensor, indices_NK: Tensor, weights_NK: Tensor) -> Tensor:
        """The sum as it is."""
        ctx.save_for_backward(indices_NK, weights_NK)
        ctx.num_rows = len(rows_RD)
        return total_ND.view_as(total_ND)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Sums over the examples that read a row."""
        if not ctx.needs_input_grad[1]:
            return gradients[0], None, None, None
        indices_NK, weights_NK = ctx.saved_tensors
        return gradients[0], _sums_by_index(indices_NK, weights_NK, gradients[0], ctx.num_rows), None, None


def _sums_by_index(indices_NK: Tensor, weights_NK: Tensor, examples_ND: Tensor, num_rows: int) -> Tensor:
    """Of each index below `num_rows`, the weighted sum of the examples that have it, (num_rows, width)."""
    examples = torch.arange(len(indices_NK), device=indices_NK.device)[:, None].expand_as(indices_NK)
    places = torch.stack([indices_NK.flatten(), examples.flatten()])
    shape = (num_rows, len(indices_NK))
    matrix = torch.sparse_coo_tensor(places, weights_NK.flatten(), shape, check_invariants=False)  # all in range
    return torch.sparse.mm(matrix, examples_ND)


@dataclass(frozen=True)
class DenseCodes:
    """Codes as one activation per latent, (..., num_latents): for rules whose gradient needs all of them."""

    values: Tensor

    def decode(self, atoms: Tensor) -> Tensor:
        """As in Codes, by a matrix product."""
        return torch.einsum("b...m,...md->b...d", self.values, atoms)

    def prefix(self, num_latents: int) -> "DenseCodes":
        """As in Codes."""
        kept = torch.arange(self.values.shape[-1], device=self.values.device) < num_latents
        return DenseCodes(self.values * kept)

    def l0(self) -> Tensor:
        """As in Codes."""
        return (self.values != 0).sum(-1)

    def fired(self) -> Tensor:
        """As in Codes."""
        return (self.values != 0).sum(0).to(self.values.dtype)


def has_threshold(sparsity: Sparsity) -> bool:
    """Whether latents are kept by a threshold of their own, rather than by their rank."""
    return isinstance(sparsity, BatchTopK | JumpReLU)


def largest(pre_activations: Tensor, k: int, signed: bool = False) -> Codes:
    """The k largest pre-activations of every example, negative ones only if `signed`."""
    values, indices = pre_activations.topk(k, dim=-1)
    return Codes(indices, values if signed else values.relu(), pre_activations.shape[-1])


def active(activations: Tensor) -> Codes:
    """The entries above 0 of dense activations (..., num_latents)."""
    return largest(activations, max(1, int((activations > 0).sum(-1).max())))


def above(pre_activations: Tensor, threshold: Tensor) -> Codes:
    """The pre-activations above the threshold of their latent, (num_latents,), and above 0."""
    return active(pre_activations * (pre_activations > threshold.relu()))


def magnitudes(pre_activations: Tensor, offset: Tensor, log_scale: Tensor, bias: Tensor) -> Tensor:
    """Activations where the gate's pre-activations W x + offset are above 0: those of exp(log_scale) W x + bias."""
    return (pre_activations > 0) * (log_scale.exp() * (pre_activations - offset) + bias).relu()


def largest_of_batch(pre_activations: Tensor, ks: list[int]) -> tuple[DenseCodes, Tensor]:
    """The (k x batch) largest positive pre-activations of a batch and the smallest one kept.

    Pre-activations are (batch, stack, num_latents), with one k per autoencoder of the stack; the smallest are (stack,),
    infinite where nothing is positive.
    """
    positive = pre_activations.relu()
    flat = positive.detach().transpose(0, 1).flatten(1)
    least = torch.stack([row.topk(k * len(positive)).values[-1] for row, k in zip(flat, ks, strict=True)])
    kept = (positive >= least[:, None]) & (positive > 0)
    smallest = positive.detach().masked_fill(~kept, torch.inf).amin((0, 2))
    return DenseCodes(positive * kept), smallest


def jump_relu(pre_activations: Tensor, threshold: Tensor, bandwidth: float) -> tuple[DenseCodes, Tensor]:
    """The pre-activations above a threshold, and the number kept of each example, as functions of the threshold.

    Both are steps; their pseudo-derivatives with a rectangle of width `bandwidth` are those of Rajamanoharan et al.
    2024 (eq. 11, 12): -threshold/bandwidth and -1/bandwidth for pre-activations within the rectangle. Thresholds,
    (stack, num_latents), must not be negative.
    """
    gate = (pre_activations > threshold).to(pre_activations.dtype)
    near = ((pre_activations - threshold).abs() < bandwidth / 2).to(pre_activations.dtype).detach() / bandwidth
    zero = threshold - threshold.detach()  # has the gradient of the threshold and the value 0
    values = pre_activations * gate - zero * threshold.detach() * near
    return DenseCodes(values), (gate - zero * near).sum(-1)
