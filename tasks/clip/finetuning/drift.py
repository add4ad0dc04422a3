"""How far fine-tuned features are from the frozen ones of the same images: what every regulariser reads.

Shapes: features (batch, width), codes (batch, K) of num_latents. Notation of section 2 of the method: z are features, s
their codes, W_d the atoms, e = z - D(s) what the autoencoder does not explain; _0 is the frozen encoder.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from amalgam.tasks.sae.autoencoder import unit_norm
from amalgam.tasks.sae.codes import Codes

Pairs = tuple[tuple[Tensor, Tensor], ...]
SHARE = 1 << 16  # features that are made float64 at once


class Autoencoder(Protocol):
    """What a drift needs of a sparse autoencoder; `tasks.sae.SparseAutoencoder` has it."""

    info: Any
    """Has `normalised`: whether it was trained on unit vectors."""
    decoder: Any
    """Atoms, (num_latents, width)."""

    def pre_activations(self, features: Tensor) -> Tensor:
        """(batch, num_latents)."""
        ...

    def sparse(self, pre_activations: Tensor) -> Codes:
        """What of them is kept."""
        ...


Module = TypeVar("Module", bound=nn.Module)


def frozen(module: Module) -> Module:
    """A copy in eval mode whose parameters take no gradient."""
    return copy.deepcopy(module).eval().requires_grad_(False)


@dataclass(frozen=True)
class Drift:
    """Current and frozen features of a batch, and what is derived from them; make it with `Drift.between`."""

    current: Tensor
    """z, (batch, width), with gradients."""
    frozen: Tensor
    """z_0, (batch, width), without."""
    sae: Autoencoder | None = None
    """Reads both."""
    levels: Pairs = ()
    """Current and frozen tokens (batch, tokens, channels) inside the encoder, level by level."""
    basis: Tensor | None = None
    """Orthonormal directions (width, components), for PCA."""
    parameters: Pairs = ()
    """Current and frozen parameters."""

    @classmethod
    def between(
        cls,
        current: Tensor,
        frozen: Tensor,
        sae: Autoencoder | None = None,
        *,
        normalise: bool | None = None,
        levels: Sequence[tuple[Tensor, Tensor]] = (),
        basis: Tensor | None = None,
        parameters: Sequence[tuple[Tensor, Tensor]] = (),
    ) -> "Drift":
        """The drift between two encoders' features of the same images, in float32 or better.

        Features are scaled to norm 1 if the autoencoder was trained on such, and without one unless `normalise` is
        False; non-finite features give a non-finite drift. Raises ValueError if `normalise` or the width
        contradicts the autoencoder, if shapes differ, or if the autoencoder would learn: `frozen(sae)` does not.
        """
        if current.shape != frozen.shape:
            raise ValueError(f"features {tuple(current.shape)} and anchors {tuple(frozen.shape)} differ in shape")
        if sae is not None:
            _check(sae, current.shape[1], normalise)
            normalise = bool(sae.info.normalised)
        wide = torch.promote_types(current.dtype, torch.float32)
        ours, theirs = current.to(wide), frozen.detach().to(wide)
        if normalise is not False:
            ours, theirs = unit_norm(ours), unit_norm(theirs)
        depths = tuple((new.to(wide), old.detach().to(wide)) for new, old in levels)
        fixed = tuple((new, old.detach()) for new, old in parameters)
        return cls(ours, theirs, sae, depths, None if basis is None else basis.detach().to(wide), fixed)

    @cached_property
    def change(self) -> Tensor:
        """z - z_0, (batch, width)."""
        return self.current - self.frozen

    @cached_property
    def codes(self) -> Codes:
        """s, of the current features."""
        return self._sae.sparse(self._sae.pre_activations(self.current))

    @cached_property
    def frozen_codes(self) -> Codes:
        """s_0, without gradient."""
        with torch.no_grad():
            return self._sae.sparse(self._sae.pre_activations(self.frozen))

    @cached_property
    def shared(self) -> Tensor:
        """Whether current entry i and frozen entry j are the same active latent, (batch, K, K_0)."""
        ours, theirs = self.codes, self.frozen_codes
        same = ours.indices[:, :, None] == theirs.indices[:, None, :]
        return same & ours.active[:, :, None] & theirs.active[:, None, :]

    @cached_property
    def overlap(self) -> Tensor:
        """The Jaccard index of the active latents of each image, now and before, (batch,): 1 where none is active."""
        shared = self.shared.sum((1, 2))
        union = self.codes.l0() + self.frozen_codes.l0() - shared
        return torch.where(union > 0, shared / union.clamp(min=1), 1.0)

    @cached_property
    def unexplained(self) -> Tensor:
        """e - e_0 = (z - z_0) - W_d (s - s_0), (batch, width): the bias of the autoencoder cancels."""
        explained = self.codes.decode(self.atoms) - self.frozen_codes.decode(self.atoms)
        return self.change - explained

    @property
    def atoms(self) -> Tensor:
        """W_d, (num_latents, width), without gradient."""
        atoms: Tensor = self._sae.decoder
        return atoms.detach().to(self.current)

    def pre_activations(self) -> tuple[Tensor, Tensor]:
        """p and p_0, (batch, num_latents); only the first has a gradient."""
        with torch.no_grad():
            theirs = self._sae.pre_activations(self.frozen)
        return self._sae.pre_activations(self.current), theirs

    @property
    def _sae(self) -> Autoencoder:
        assert self.sae is not None, "codes of a drift without an autoencoder"
        return self.sae


def _check(sae: Autoencoder, width: int, normalise: bool | None) -> None:
    if sae.decoder.shape[1] != width:
        raise ValueError(f"the autoencoder reads features of width {sae.decoder.shape[1]}, these have {width}")
    if normalise is not None and normalise != sae.info.normalised:
        raise ValueError(
            f"the autoencoder was trained with normalised={sae.info.normalised}, fine-tuning asks for {normalise}: "
            "leave normalise out, or train another autoencoder"
        )
    if isinstance(sae, nn.Module) and any(parameter.requires_grad for parameter in sae.parameters()):
        raise ValueError("the parameters of the autoencoder require gradients: give frozen(sae)")


@torch.no_grad()
def principal_directions(features: Tensor, count: int) -> Tensor:
    """The `count` directions in which features (examples, width) vary most, orthonormal, (width, count)."""
    if not 0 < count <= features.shape[1]:
        raise ValueError(f"features of width {features.shape[1]} have no {count} principal directions")
    mean = features.mean(0, dtype=torch.float64)
    scatter = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=features.device)
    for share in features.split(SHARE):
        centred = share.double() - mean
        scatter += centred.T @ centred
    return torch.linalg.eigh(scatter).eigenvectors[:, -count:].flip(1).to(features.dtype)
