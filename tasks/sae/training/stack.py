"""Several autoencoders of one shape and rule as one set of tensors: what one training step computes for all of them.

Axes: B examples of a batch, G autoencoders of the stack, M latents, D feature width. All pre-activations of a stack are
one matrix product; a rule that ranks latents decodes, and has a gradient of, only those it kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from amalgam.tasks.sae.autoencoder import EPS, SparseAutoencoder
from amalgam.tasks.sae.codes import Codes, DenseCodes, jump_relu, largest, largest_of_batch
from amalgam.tasks.sae.config import SAETrainConfig
from amalgam.tasks.sae.rules import BatchTopK, Gated, JumpReLU, Matryoshka, Nested, ReLU, TopK, varied
from amalgam.tasks.sae.training.l1 import gated, penalised


@dataclass(frozen=True)
class StackLoss:
    """What one batch gives, per autoencoder (stack,)."""

    total: Tensor
    """What is minimised."""
    fvu: Tensor
    """Squared error of the batch over the variance of all features."""
    auxk: Tensor
    """Share of the remaining error that dead latents leave unexplained; 0 where none is dead."""
    l0: Tensor
    """Mean number of active latents."""


@dataclass(frozen=True)
class Affine:
    """Pre-activations, W (x - b) + c, and what their gradient is made of.

    They are computed as W x + offset, so that a stack shares x; the offset c - W b then has no gradient by W where that
    of centred features x - b is taken.
    """

    centred_BGD: Tensor
    encoder_GMD: Tensor
    offset_GM: Tensor
    pre_BGM: Tensor

    def largest(self, pre_BGM: Tensor, k: int, signed: bool = False) -> Codes:
        """The k largest of the given pre-activations, which are these or lower, with a gradient of their own."""
        kept = largest(pre_BGM.detach(), k, signed=True)
        values = _AtIndices.apply(self.encoder_GMD, self.offset_GM, self.centred_BGD, kept.indices, kept.values)
        return replace(kept, values=values if signed else values.relu())


class _AtIndices(torch.autograd.Function):
    """A few pre-activations as a function of encoder and offset, whose gradient touches only those few.

    The gradient by all pre-activations would be a matrix of mostly zeros, and multiplying it by the features a fifth of
    a training step.
    """

    @staticmethod
    def forward(
        ctx: Any, encoder_GMD: Tensor, offset_GM: Tensor, centred_BGD: Tensor, indices_BGK: Tensor, values_BGK: Tensor
    ) -> Tensor:
        """The values as they are."""
        ctx.save_for_backward(centred_BGD, indices_BGK)
        ctx.num_latents = encoder_GMD.shape[1]
        return values_BGK.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients by encoder and offset: sums over the examples in which a latent was kept."""
        centred_BGD, indices_BGK = ctx.saved_tensors
        codes = Codes(indices_BGK, gradients[0], ctx.num_latents)
        return codes.weighted_sums(centred_BGD), codes.sums(), None, None, None


class Stack(nn.Module):
    """Autoencoders whose parameters are stacked along a first axis, and the memory of when each latent last fired."""

    encoder: nn.Parameter
    decoder: nn.Parameter
    bias: nn.Parameter
    encoder_bias: nn.Parameter
    silent: Tensor
    steps: Tensor

    def __init__(self, saes: Sequence[SparseAutoencoder], config: SAETrainConfig) -> None:
        super().__init__()
        self.infos, self.config = [sae.info for sae in saes], config
        for name, _ in saes[0].named_parameters():
            self.register_parameter(name, nn.Parameter(torch.stack([sae.get_parameter(name).data for sae in saes])))
        # Without an offset of its own a latent of these would fire for half of all examples.
        penalised = isinstance(self.infos[0].sparsity, ReLU | Gated)
        self.encoder_bias.requires_grad_(config.encoder_bias or penalised)
        if isinstance(self.infos[0].sparsity, BatchTopK):
            self.get_parameter("threshold").requires_grad_(False)
        self.register_buffer("silent", torch.zeros(self.decoder.shape[:2], dtype=torch.long))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def unstacked(self) -> list[SparseAutoencoder]:
        """The autoencoders, each with tensors of its own, of the device and number format of the stack."""
        saes = [SparseAutoencoder(info).to(self.decoder) for info in self.infos]
        for index, sae in enumerate(saes):
            sae.load_state_dict({name: p.detach()[index].clone() for name, p in self.named_parameters()})
        return saes

    def loss(self, x_BD: Tensor, variance: float, dead_after: int) -> StackLoss:
        """The losses of a batch; remembers which latents fired.

        `variance` is the mean squared distance of all features from their mean; a latent that has been silent for
        `dead_after` examples is dead.
        """
        ranked = isinstance(self.infos[0].sparsity, TopK | Matryoshka)
        offset_GM = self._offset(self.encoder.detach())
        # A rule that ranks needs gradients of the few pre-activations kept, others those of all.
        with torch.set_grad_enabled(not ranked):
            used_GM = offset_GM if ranked else self._offset(self.encoder)
            flat = torch.addmm(used_GM.flatten(), x_BD, self.encoder.flatten(0, 1).T)
        centred_BGD = x_BD[:, None] - self.bias
        affine = Affine(centred_BGD.detach(), self.encoder, offset_GM, flat.unflatten(1, offset_GM.shape))
        codes, penalty = self._codes(affine, variance**0.5)
        reconstructions = [codes.prefix(n).decode(self.decoder) for n in self._prefixes()]
        reconstructions.append(codes.decode(self.decoder))
        errors = [centred_BGD - r for r in reconstructions]
        fvus = [e.square().sum((0, 2)) / (len(x_BD) * variance) for e in errors]
        auxk = self._auxk(affine, errors[-1].detach(), self.silent >= dead_after)
        self._remember(codes, len(x_BD))
        total = sum(fvus) / len(fvus) + self.config.auxk_weight * auxk + penalty
        return StackLoss(total, fvus[-1].detach(), auxk.detach(), codes.l0().float().mean(0))

    def _offset(self, encoder_GMD: Tensor) -> Tensor:
        """c - W b, (stack, num_latents)."""
        return self.encoder_bias - torch.einsum("gmd,gd->gm", encoder_GMD, self.bias)

    def _codes(self, affine: "Affine", deviation: float) -> tuple[Codes | DenseCodes, Tensor]:
        """The codes in training, and what the rule adds to the loss, (stack,)."""
        pre_BGM, first = affine.pre_BGM, self.infos[0].sparsity
        settings = [getattr(info.sparsity, varied(first)) for info in self.infos]
        varied_G = pre_BGM.new_tensor(settings)
        nothing = torch.zeros_like(varied_G)
        if isinstance(first, JumpReLU):
            codes, l0_BG = jump_relu(pre_BGM, self.get_parameter("threshold"), first.bandwidth)
            return codes, first.weight * (l0_BG.mean(0) / varied_G - 1).square()
        if isinstance(first, ReLU):
            return penalised(pre_BGM, self.decoder, varied_G, deviation)
        if isinstance(first, Gated):
            return gated(pre_BGM, affine.centred_BGD, dict(self.named_parameters()), varied_G, deviation)
        ks = [int(k) for k in settings]  # read off the GPU, they would hold up every step
        if isinstance(first, BatchTopK):
            codes, smallest = largest_of_batch(pre_BGM, ks)
            self._follow(smallest, first.memory)
            return codes, nothing
        kept = affine.largest(pre_BGM, max(ks), isinstance(first, TopK) and first.signed)
        if min(ks) < max(ks):
            rank = torch.arange(max(ks), device=pre_BGM.device)
            mask = rank < torch.tensor(ks, device=pre_BGM.device)[:, None]
            kept = Codes(kept.indices, kept.values * mask, kept.num_latents)
        return kept, nothing

    def _prefixes(self) -> list[int]:
        """Numbers of first latents that must reconstruct without the rest."""
        rule, num_latents = self.infos[0].sparsity, self.infos[0].num_latents
        return [max(1, round(p * num_latents)) for p in rule.prefixes[:-1]] if isinstance(rule, Nested) else []

    def _auxk(self, affine: "Affine", error_BGD: Tensor, dead_GM: Tensor) -> Tensor:
        """How badly dead latents explain the error (Gao et al. 2024, A.2), (stack,); 0 where none is dead."""
        if not self.config.auxk_weight or not dead_GM.any():
            return error_BGD.new_zeros(len(self.infos))
        k = min(self.config.auxk or max(1, self.infos[0].width // 2), self.infos[0].num_latents)
        explained = affine.largest(affine.pre_BGM.masked_fill(~dead_GM, -torch.inf), k).decode(self.decoder)
        left = (error_BGD - explained).square().sum((0, 2)) / error_BGD.square().sum((0, 2)).clamp_min(1e-12)
        return left * dead_GM.any(1)

    @torch.no_grad()
    def _remember(self, codes: Codes | DenseCodes, num_examples: int) -> None:
        self.silent.add_(num_examples).masked_fill_(codes.fired() > 0, 0)
        self.steps.add_(1)

    @torch.no_grad()
    def _follow(self, smallest_G: Tensor, memory: float) -> None:
        """Move the running threshold towards the smallest activation that a batch kept."""
        # Early thresholds are far off: step t keeps (1 + t) / (10 + t) of what was, at most `memory`.
        kept_share = ((1 + self.steps) / (10 + self.steps)).clamp_max(memory)
        kept_share = torch.where(self.steps > 0, kept_share, torch.zeros_like(kept_share))
        threshold = self.get_parameter("threshold")
        found = smallest_G.isfinite()[:, None]
        moved = torch.lerp(smallest_G[:, None].expand_as(threshold), threshold, kept_share)
        threshold.copy_(torch.where(found, moved, threshold))

    @torch.no_grad()
    def shape_gradients(self) -> None:
        """Drop the part of the atoms' gradient along them, then clip the gradient of each autoencoder."""
        if self.config.unit_atoms:
            gradient = self.decoder.grad
            assert gradient is not None, "no gradient to project"
            # g - (g . a) a is tangential to the sphere on which atoms lie; the rest would only change their norm.
            gradient.addcmul_((gradient * self.decoder).sum(-1, keepdim=True), self.decoder, value=-1)
        if self.config.clip_norm is None:
            return
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        norm_G = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
        factor_G = (self.config.clip_norm / (norm_G + 1e-6)).clamp_max(1.0)
        for g in gradients:
            g *= factor_G.reshape(-1, *[1] * (g.ndim - 1))

    @torch.no_grad()
    def restore_constraints(self) -> None:
        """Put atoms back to norm 1 and thresholds back above 0 after a step of the optimiser."""
        if self.config.unit_atoms:
            self.decoder.div_(self.decoder.norm(dim=-1, keepdim=True) + EPS)  # `unit_norm`, in place
        if isinstance(self.infos[0].sparsity, JumpReLU):
            self.get_parameter("threshold").clamp_(min=0)
