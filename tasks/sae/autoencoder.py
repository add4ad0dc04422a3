"""A sparse autoencoder: a dictionary of unit vectors, few of which explain a feature vector.

    pre-activations  p = W_e (z - b) + c        codes  s = sparsity rule of p        reconstruction  W_d s + b

Atoms are stored as the rows of `decoder`. `c` is zero unless trained or read from elsewhere.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from amalgam.tasks.sae.codes import Codes, above, active, has_threshold, largest, magnitudes
from amalgam.tasks.sae.config import SAEInfo, SAETrainConfig
from amalgam.tasks.sae.rules import Gated, JumpReLU, Matryoshka, TopK

EPS = 1e-8  # as in the SAE-FT reference; keeps a zero vector zero
UNIT_TOLERANCE = 1e-2  # norms of unit vectors stored in bfloat16 differ from 1 by less


def unit_norm(features: Tensor) -> Tensor:
    """The vectors scaled to Euclidean norm 1, (..., width)."""
    return features / (features.norm(dim=-1, keepdim=True) + EPS)


def require_rows(info: SAEInfo, features: Tensor) -> None:
    """Raise ValueError for vectors of another width, or of norms other than 1 where the autoencoder needs those."""
    if features.shape[-1] != info.width:
        raise ValueError(f"this autoencoder reads features of width {info.width}, got shape {tuple(features.shape)}")
    if not info.normalised or torch.compiler.is_compiling() or features.numel() == 0:
        return
    with torch.no_grad():
        norms = features.float().norm(dim=-1)
        worst = norms.flatten()[(norms.flatten() - 1).abs().argmax()].item()
    if not abs(worst - 1) <= UNIT_TOLERANCE:
        raise ValueError(f"the autoencoder reads features of norm 1, got norm {worst:.4g}: apply `unit_norm` first")


class SparseAutoencoder(nn.Module):
    """One autoencoder whose sparsity rule is a value, `info.sparsity`. In training mode it is the same function."""

    def __init__(self, info: SAEInfo) -> None:
        super().__init__()
        self.info = info
        self.encoder = nn.Parameter(torch.zeros(info.num_latents, info.width))
        """W_e, (num_latents, width)."""
        self.decoder = nn.Parameter(torch.zeros(info.num_latents, info.width))
        """Atoms, (num_latents, width)."""
        self.bias = nn.Parameter(torch.zeros(info.width))
        """b, (width,)."""
        self.encoder_bias = nn.Parameter(torch.zeros(info.num_latents))
        """c, (num_latents,)."""
        if has_threshold(info.sparsity):
            self.threshold = nn.Parameter(torch.zeros(info.num_latents))
            """Pre-activation above which a latent is active, (num_latents,); only with a rule that has one."""
        if isinstance(info.sparsity, Gated):
            self.log_scale = nn.Parameter(torch.zeros(info.num_latents))
            """Logarithm of the activations' scale beside the gate's, (num_latents,)."""
            self.magnitude_bias = nn.Parameter(torch.zeros(info.num_latents))
            """Offset of the activations, where c is that of the gate, (num_latents,)."""

    def pre_activations(self, features: Tensor) -> Tensor:
        """One number per latent, (..., num_latents); in float32 or better also under autocast.

        Half precision would change which of two close latents is kept.
        """
        wide = features.to(torch.promote_types(features.dtype, self.encoder.dtype))
        with torch.autocast(features.device.type, enabled=False):
            return linear(self.centred(wide), self.encoder, self.encoder_bias)

    def centred(self, features: Tensor) -> Tensor:
        """What the encoder multiplies, (..., width)."""
        return features - self.bias

    def encode(self, features: Tensor) -> Codes:
        """The sparse codes of features (..., width). Raises ValueError for features of the wrong width or norm."""
        require_rows(self.info, features)
        return self.sparse(self.pre_activations(features))

    def sparse(self, pre_activations: Tensor) -> Codes:
        """What the sparsity rule keeps of pre-activations (..., num_latents), of each example on its own."""
        rule = self.info.sparsity
        if isinstance(rule, Gated):
            return active(magnitudes(pre_activations, self.encoder_bias, self.log_scale, self.magnitude_bias))
        if isinstance(rule, TopK | Matryoshka):
            return largest(pre_activations, rule.k, isinstance(rule, TopK) and rule.signed)
        return above(pre_activations, self.threshold if has_threshold(rule) else torch.zeros_like(self.encoder_bias))

    def decode(self, codes: Codes | Tensor) -> Tensor:
        """The reconstruction (..., width) from sparse codes, or from dense ones (..., num_latents)."""
        explained = codes.decode(self.decoder) if isinstance(codes, Codes) else codes @ self.decoder
        return explained + self.bias

    def output(self, codes: Codes, features: Tensor) -> Tensor:
        """What is made of the codes of features: their reconstruction, (..., width)."""
        return self.decode(codes)

    def forward(self, features: Tensor) -> Tensor:
        """The reconstruction of features, (..., width)."""
        return self.output(self.encode(features), features)


@torch.no_grad()
def initial(info: SAEInfo, config: SAETrainConfig, mean: Tensor, seed: int) -> SparseAutoencoder:
    """The autoencoder before training, its atoms drawn from `seed` alone; `mean` is the mean feature, (width,)."""
    generator = torch.Generator().manual_seed(seed)
    sae = SparseAutoencoder(info)
    sae.decoder.copy_(unit_norm(torch.randn(sae.decoder.shape, generator=generator)))
    sae.encoder.copy_(sae.decoder)
    if not config.tied_start:
        limit = info.width**-0.5
        sae.encoder.copy_(torch.rand(sae.encoder.shape, generator=generator) * 2 * limit - limit)
    if config.mean_start:
        sae.bias.copy_(mean)
    if isinstance(info.sparsity, JumpReLU):
        sae.threshold.fill_(info.sparsity.start)
    return sae
