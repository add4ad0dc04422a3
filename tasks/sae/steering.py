"""Features with some latents scaled, clamped or removed, and everything else as it was: no training.

    z' = z + |z| W_d (s' - s)

What the autoencoder does not explain stays: with s' = s the features are unchanged to the last bit.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from amalgam.tasks.sae.autoencoder import SparseAutoencoder


class Steered(nn.Module):
    """An encoder whose features are edited latent by latent; a plain module, to be exported or put under a head."""

    latents: Tensor
    factors: Tensor
    levels: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        sae: SparseAutoencoder,
        *,
        scale: Mapping[int, float] | None = None,
        clamp: Mapping[int, float] | None = None,
        remove: Sequence[int] = (),
    ) -> None:
        """`scale` multiplies activations, `clamp` sets them in every image, `remove` is a scale of 0.

        Raises ValueError for a latent that the autoencoder lacks, or that two rules name.
        """
        super().__init__()
        scales = {**(scale or {}), **dict.fromkeys(remove, 0.0)}
        named = [*(scale or {}), *(clamp or {}), *remove]
        if twice := sorted({latent for latent in named if named.count(latent) > 1}):
            raise ValueError(f"latent {twice[0]} has two rules: choose one of scale, clamp and remove")
        num_latents = len(sae.decoder)
        if unknown := [latent for latent in named if not 0 <= latent < num_latents]:
            raise ValueError(f"the autoencoder has {num_latents} latents, there is no latent {unknown[0]}")
        self.encoder, self.sae = encoder, sae
        self.register_buffer("latents", torch.tensor(sorted(named), dtype=torch.long))
        self.register_buffer("factors", torch.tensor([scales.get(latent, 0.0) for latent in sorted(named)]))
        self.register_buffer("levels", torch.tensor([(clamp or {}).get(latent, 0.0) for latent in sorted(named)]))

    def forward(self, images: Tensor) -> Tensor:
        """Edited features (batch, width)."""
        return self.edited(self.encoder(images))

    def edited(self, features: Tensor) -> Tensor:
        """Features (batch, width) with their selected latents changed; their length multiplies what is added."""
        length = features.norm(dim=1, keepdim=True) if self.sae.info.normalised else torch.ones_like(features[:, :1])
        activations = self.sae.sparse(self.sae.pre_activations(features / length.clamp_min(1e-12))).dense()
        selected = activations[:, self.latents]
        change = selected * self.factors + self.levels - selected
        return features + length * (change @ self.sae.decoder[self.latents])
