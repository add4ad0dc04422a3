"""Where in an image a latent is active: in which patches, by their own features."""

import torch
from torch import Tensor

from amalgam.tasks.sae.autoencoder import SparseAutoencoder, unit_norm

SHARE = 0.5  # of the most active patch's pre-activation, that a patch has at least


@torch.no_grad()
def active_patches(sae: SparseAutoencoder, patches: Tensor, latents: Tensor) -> Tensor:
    """Which patches of each image activate a latent of it, (images, rows, columns) of bool.

    `patches` are features (images, rows, columns, width) in the space of the image's own, latents are (images,). A
    patch is active if its pre-activation is above 0 and at least SHARE of that of the most active patch; images may
    have none. The autoencoder was trained on features of images, so that this shows where, not how much.
    """
    unit = sae.centred(unit_norm(patches.to(sae.encoder.dtype)))
    values = torch.einsum("ircw,iw->irc", unit, sae.encoder[latents]) + sae.encoder_bias[latents, None, None]
    return (values > 0) & (values >= SHARE * values.amax((1, 2), keepdim=True))
