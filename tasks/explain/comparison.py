"""One batch of images as two classifiers see it, through one autoencoder.

Notation of section 2 of the method: z are unit features, s their codes, d_j the atoms, e = z - D(s) what the
autoencoder does not explain, W and b the head; _0 is before fine-tuning, _1 after. Everything behind the encoders is in
float64.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from amalgam.tasks.explain.active import Active
from amalgam.tasks.sae.autoencoder import SparseAutoencoder, unit_norm
from amalgam.tasks.sae.codes import Codes

AT_ONCE = 2**12  # entries whose features are in memory at once


@dataclass(frozen=True)
class Comparison:
    """What the features of both encoders are read by: an autoencoder of unit features, and the heads."""

    sae: SparseAutoencoder
    before: nn.Linear
    after: nn.Linear

    def __post_init__(self) -> None:
        old, new, width = self.before.weight.shape, self.after.weight.shape, self.sae.info.width
        if old != new:
            raise ValueError(f"the classifiers must have equal heads, got {tuple(old)} and {tuple(new)} weights")
        if width != old[1]:
            raise ValueError(f"the autoencoder reads features of width {width}, the classifiers make {old[1]}")
        if not self.sae.info.normalised:
            raise ValueError("heads read features of norm 1: give an autoencoder trained with normalised=True")

    @property
    def num_latents(self) -> int:
        """Latents of the autoencoder."""
        return len(self.sae.decoder)

    @property
    def num_classes(self) -> int:
        """Classes of both heads."""
        return len(self.before.weight)

    @cached_property
    def atoms(self) -> Tensor:
        """d, (num_latents, width)."""
        return self.sae.decoder.detach().double()

    @cached_property
    def squares(self) -> Tensor:
        """|d|^2, (num_latents,)."""
        return self.atoms.square().sum(1)

    @cached_property
    def weights(self) -> tuple[Tensor, Tensor]:
        """W_0 and W_1, (num_classes, width)."""
        return self.before.weight.detach().double(), self.after.weight.detach().double()

    @cached_property
    def biases(self) -> tuple[Tensor, Tensor]:
        """b_0 and b_1, (num_classes,)."""
        return self.before.bias.detach().double(), self.after.bias.detach().double()

    @cached_property
    def pulls(self) -> tuple[Tensor, Tensor]:
        """W_0 d and W_1 d: how far one unit of a latent moves a class logit, (num_latents, num_classes)."""
        return self.atoms @ self.weights[0].T, self.atoms @ self.weights[1].T

    @torch.no_grad()
    def of(self, before: Tensor, after: Tensor, labels: Tensor, domains: Tensor) -> "Compared":
        """A batch, from features (batch, width) of any norm, true classes and numbers of domains (batch,)."""
        if before.shape != after.shape:
            raise ValueError(f"features {tuple(before.shape)} and {tuple(after.shape)} differ in shape")
        pairs = [(normalize(features.double(), dim=-1), self._codes(features)) for features in (before, after)]
        return Compared(self, pairs[0][0], pairs[1][0], pairs[0][1], pairs[1][1], labels, domains)

    def _codes(self, features: Tensor) -> Codes:
        codes = self.sae.encode(unit_norm(features.to(self.sae.decoder.dtype)))
        return replace(codes, values=codes.values.double())


@dataclass(frozen=True)
class Compared:
    """A batch of images before and after; make it with `Comparison.of`."""

    by: Comparison
    z0: Tensor
    """(batch, width)."""
    z1: Tensor
    """(batch, width)."""
    s0: Codes
    """Codes of the batch, in float64."""
    s1: Codes
    labels: Tensor
    """True classes, (batch,)."""
    domains: Tensor
    """Numbers of domains, (batch,)."""

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def active(self) -> Active:
        """Where s_0 or s_1 are not zero."""
        return Active.of(self.s0, self.s1)

    @cached_property
    def overlap(self) -> Tensor:
        """<z_1, d> of the image and latent of each entry of `active`, (entries,)."""
        entries = zip(self.active.images.split(AT_ONCE), self.active.latents.split(AT_ONCE), strict=True)
        return torch.cat([(self.z1[images] * self.by.atoms[latents]).sum(1) for images, latents in entries])

    @cached_property
    def explained(self) -> Tensor:
        """(s_1 - s_0) D, the change of features through latents, (batch, width)."""
        return self.s1.decode(self.by.atoms) - self.s0.decode(self.by.atoms)

    @cached_property
    def error_change(self) -> Tensor:
        """e_1 - e_0, (batch, width): the bias of the autoencoder cancels."""
        return self.z1 - self.z0 - self.explained

    @cached_property
    def logits(self) -> tuple[Tensor, Tensor]:
        """Of both classifiers, (batch, num_classes)."""
        (w0, w1), (b0, b1) = self.by.weights, self.by.biases
        return linear(self.z0, w0, b0), linear(self.z1, w1, b1)

    @cached_property
    def predicted(self) -> tuple[Tensor, Tensor]:
        """Classes that both predict, (batch,)."""
        return self.logits[0].argmax(1), self.logits[1].argmax(1)
