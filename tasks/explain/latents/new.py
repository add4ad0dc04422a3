"""Latents that are new after fine-tuning: those of a second autoencoder, of the tuned features, without a counterpart.

Two autoencoders start as the original one and are trained alike, one on the features before fine-tuning and one on
those after. A latent of the latter is new if its atom is unlike that of its match among the former and unlike every
original one, and it is active in more images after than before: what retraining alone makes is not new, and equal
networks have none.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from amalgam.tasks.sae.autoencoder import SparseAutoencoder, unit_norm
from amalgam.tasks.sae.config import FeatureInfo, SAESpec, SAETrainConfig
from amalgam.tasks.sae.metrics import matched
from amalgam.tasks.sae.training.train import train

ALIKE = 0.7  # cosine from which on atoms count as the same, as in Paulo and Belrose 2025 (arXiv:2501.16615)
TRAINING = SAETrainConfig(epochs=None, steps=300, batch_size=1024)


@dataclass(frozen=True)
class Second:
    """An autoencoder of the tuned features."""

    sae: SparseAutoencoder
    latents: Tensor
    """The new ones, (new,)."""
    likeness: Tensor
    """Cosine of each with the nearest atom of the features before, original or retrained, (new,)."""


def second_autoencoder(
    sae: SparseAutoencoder, before: Tensor, after: Tensor, training: SAETrainConfig = TRAINING
) -> Second:
    """The second autoencoder, from features (images, width) of the same images by both encoders."""
    info = sae.info
    spec = SAESpec(sparsity=info.sparsity, expansion=info.num_latents / info.width)
    about = FeatureInfo(width=info.width, normalised=info.normalised, backbone=info.backbone)
    retrained, tuned = (
        train(unit_norm(features.float()), about, [spec], training, log=lambda *_: None, start=sae)[0]
        for features in (before, after)
    )
    with torch.no_grad():
        was, is_now = (
            sum(tuned.encode(part).fired() for part in unit_norm(features.float()).split(1024))
            for features in (before, after)
        )
        atoms, original = (unit_norm(each.decoder.detach().double()) for each in (tuned, sae))
        nearest = torch.cat([(part @ original.T).amax(1) for part in atoms.split(1024)])
        likeness = torch.maximum(nearest, matched(atoms, retrained.decoder.detach()))
        new = ((is_now > was) & (likeness < ALIKE)).nonzero().flatten()
    return Second(tuned, new[likeness[new].argsort(stable=True)], likeness[new].sort(stable=True).values)
