"""Where in an image a latent is active: in which parts, by the features of their patches."""

import torch
from torch import Tensor

from amalgam.tasks.explain.latents.parts import grid_parts
from amalgam.tasks.sae.autoencoder import SparseAutoencoder, unit_norm

NUM_PARTS = 16  # of an image; grids of fewer patches have each patch for a part
SHARE = 0.5  # of the most active part's pre-activation, that a part has at least


@torch.no_grad()
def active_patches(sae: SparseAutoencoder, patches: Tensor, latents: Tensor, num_parts: int = NUM_PARTS) -> Tensor:
    """Which patches of each image are in a part that activates a latent of it, (images, rows, columns) of bool.

    `patches` are features (images, rows, columns, width) in the space of the image's own, latents are (images,). A
    part is active if the mean pre-activation of its patches is above 0 and at least SHARE of that of the most active
    part; images may have none. The mean is less noisy than a patch alone. The autoencoder was trained on features of
    images, so that this shows where, not how much.
    """
    unit = sae.centred(unit_norm(patches.to(sae.encoder.dtype)))
    values = torch.einsum("ircw,iw->irc", unit, sae.encoder[latents]) + sae.encoder_bias[latents, None, None]
    parts = grid_parts(values.shape[1], values.shape[2], num_parts)
    pooled = parts.pooled(values.flatten(1).T)
    active = (pooled > 0) & (pooled >= SHARE * pooled.amax(0))
    return active[parts.cells.to(active.device)].T.reshape(values.shape)
