"""Several autoencoders of one shape and rule as one set of tensors: what one training step computes for all of them.

Axes: B examples of a batch, G autoencoders of the stack, M latents, D feature width. All pre-activations of a stack are
one matrix product, and a rule that ranks latents decodes only those it kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tasks.sae.autoencoder import SparseAutoencoder, unit
from tasks.sae.codes import Codes, DenseCodes, jump_relu, largest, largest_of_batch
from tasks.sae.config import BatchTopK, JumpReLU, Matryoshka, SAETrainConfig, TopK


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
        self.encoder_bias.requires_grad_(config.encoder_bias)
        if isinstance(self.infos[0].sparsity, BatchTopK):
            self.get_parameter("threshold").requires_grad_(False)
        self.register_buffer("silent", torch.zeros(self.decoder.shape[:2], dtype=torch.long))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def unstacked(self) -> list[SparseAutoencoder]:
        """The autoencoders, each with tensors of its own, on the device of the stack."""
        saes = [SparseAutoencoder(info).to(self.decoder.device) for info in self.infos]
        for index, sae in enumerate(saes):
            sae.load_state_dict({name: p.detach()[index].clone() for name, p in self.named_parameters()})
        return saes

    def loss(self, x_BD: Tensor, variance: float, dead_after: int) -> StackLoss:
        """The losses of a batch; remembers which latents fired.

        `variance` is the mean squared distance of all features from their mean; a latent that has been silent for
        `dead_after` examples is dead.
        """
        pre_BGM = self._pre_activations(x_BD)
        codes, penalty = self._codes(pre_BGM)
        reconstructions = [codes.prefix(n).decode(self.decoder) for n in self._prefixes()]
        reconstructions.append(codes.decode(self.decoder))
        errors = [x_BD[:, None] - self.bias - r for r in reconstructions]
        fvus = [e.square().sum((0, 2)) / (len(x_BD) * variance) for e in errors]
        auxk = self._auxk(pre_BGM, errors[-1].detach(), self.silent >= dead_after)
        self._remember(codes, len(x_BD))
        total = sum(fvus) / len(fvus) + self.config.auxk_weight * auxk + penalty
        return StackLoss(total, fvus[-1].detach(), auxk.detach(), codes.l0().float().mean(0))

    def _pre_activations(self, x_BD: Tensor) -> Tensor:
        offset_GM = self.encoder_bias - torch.einsum("gmd,gd->gm", self.encoder, self.bias)
        flat = torch.addmm(offset_GM.flatten(), x_BD, self.encoder.flatten(0, 1).T)
        return flat.unflatten(1, offset_GM.shape)

    def _codes(self, pre_BGM: Tensor) -> tuple[Codes | DenseCodes, Tensor]:
        """The codes in training, and what the rule adds to the loss, (stack,)."""
        rules, nothing = [info.sparsity for info in self.infos], pre_BGM.new_zeros(len(self.infos))
        first = rules[0]
        if isinstance(first, JumpReLU):
            codes, l0_BG = jump_relu(pre_BGM, self.get_parameter("threshold"), first.bandwidth)
            targets = nothing.new_tensor([rule.target_l0 for rule in rules if isinstance(rule, JumpReLU)])
            return codes, first.weight * (l0_BG.mean(0) / targets - 1).square()
        ks = [rule.k for rule in rules if not isinstance(rule, JumpReLU)]
        if isinstance(first, BatchTopK):
            codes, smallest = largest_of_batch(pre_BGM, ks)
            self._follow(smallest, first.memory)
            return codes, nothing
        kept = largest(pre_BGM, max(ks), isinstance(first, TopK) and first.signed)
        if min(ks) < max(ks):
            rank = torch.arange(max(ks), device=pre_BGM.device)
            mask = rank < torch.tensor(ks, device=pre_BGM.device)[:, None]
            kept = Codes(kept.indices, kept.values * mask, kept.num_latents)
        return kept, nothing

    def _prefixes(self) -> list[int]:
        """Numbers of first latents that must reconstruct without the rest."""
        rule, num_latents = self.infos[0].sparsity, self.infos[0].num_latents
        return [max(1, round(p * num_latents)) for p in rule.prefixes[:-1]] if isinstance(rule, Matryoshka) else []

    def _auxk(self, pre_BGM: Tensor, error_BGD: Tensor, dead_GM: Tensor) -> Tensor:
        """How badly dead latents explain the error (Gao et al. 2024, A.2), (stack,); 0 where none is dead."""
        if not self.config.auxk_weight or not dead_GM.any():
            return pre_BGM.new_zeros(len(self.infos))
        k = min(self.config.auxk or max(1, self.infos[0].width // 2), self.infos[0].num_latents)
        explained = largest(pre_BGM.masked_fill(~dead_GM, -torch.inf), k).decode(self.decoder)
        left = (error_BGD - explained).square().sum((0, 2)) / error_BGD.square().sum((0, 2)).clamp_min(1e-12)
        return left * dead_GM.any(1)

    @torch.no_grad()
    def _remember(self, codes: Codes | DenseCodes, num_examples: int) -> None:
        self.silent.add_(num_examples).masked_fill_(codes.fired() > 0, 0)
        self.steps.add_(1)

    @torch.no_grad()
    def _follow(self, smallest_G: Tensor, memory: float) -> None:
        """Move the running threshold towards the smallest activation that a batch kept."""
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
            gradient -= (gradient * self.decoder).sum(-1, keepdim=True) * self.decoder
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
            self.decoder.copy_(unit(self.decoder))
        if isinstance(self.infos[0].sparsity, JumpReLU):
            self.get_parameter("threshold").clamp_(min=0)
