"""Which latents are active, and how strongly: the sparsity rules on pre-activations.

Leading axes are free: (batch,) for one autoencoder, (batch, stack) for several that are trained together.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from tasks.sae.config import BatchTopK, JumpReLU, Sparsity, TopK


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
        first = torch.arange(0, atoms[..., 0].numel(), num_latents, device=atoms.device).reshape(*stack, 1)
        kept = self.values.shape[-1]
        total = embedding_bag(
            (self.indices + first).reshape(-1, kept),
            atoms.reshape(-1, width),
            per_sample_weights=self.values.reshape(-1, kept),
            mode="sum",
        )
        return total.reshape(*self.values.shape[:-1], width)

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


def above(pre_activations: Tensor, threshold: Tensor) -> Codes:
    """The pre-activations above the threshold of their latent, (num_latents,), and above 0."""
    kept = pre_activations * (pre_activations > threshold.relu())
    return largest(kept, max(1, int((kept > 0).sum(-1).max())))


def codes_of(sparsity: Sparsity, pre_activations: Tensor, threshold: Tensor | None) -> Codes:
    """The codes outside training: those of an example never depend on other examples."""
    if isinstance(sparsity, BatchTopK | JumpReLU):
        assert threshold is not None, f"{sparsity!r} without a threshold"
        return above(pre_activations, threshold)
    return largest(pre_activations, sparsity.k, isinstance(sparsity, TopK) and sparsity.signed)


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
