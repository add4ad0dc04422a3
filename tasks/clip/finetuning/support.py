"""Change inside and outside the span of an image's active atoms: terms that are smooth, whatever latents do.

Notation: D = z - z_0, (batch, width); A are the unit atoms that are active in the frozen code, (batch, K, width);

    c = (A A^T + eps I)^-1 A D          coefficients of D on the active atoms
    P D = A^T c                         the part of D that re-weights what is there
    D^T P D,  D^T (I - P) D             its squared length, and that of the rest; they add up to |D|^2

The frozen code alone decides A, so no term jumps when a latent becomes active (method page, section 17).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from amalgam.tasks.clip.finetuning.drift import Drift

VARIANCE = 1e-6  # of activations: below it a latent says nothing in a batch
RIDGE = 1e-4  # eps: keeps the coefficients of atoms that nearly coincide finite


class SupportSplit(NamedTuple):
    """A change in two parts."""

    coefficients: Tensor
    """c, (batch, K); 0 for filling entries of the code."""
    inside: Tensor
    """D^T P D, (batch,)."""
    outside: Tensor
    """(I - P) D, (batch, width)."""


def split(drift: Drift) -> SupportSplit:
    """The change of features along the active atoms of the frozen code, and the rest."""
    active = drift.frozen_codes.active[..., None]
    atoms = normalize(drift.atoms, dim=1)[drift.frozen_codes.indices] * active
    # Least squares over the active atoms A: (A^T A + eps I) c = A^T D, and D^T P D = D^T A c.
    gram = atoms @ atoms.transpose(1, 2) + RIDGE * torch.eye(atoms.shape[1]).to(atoms)
    along = torch.einsum("bkd,bd->bk", atoms, drift.change)
    coefficients = torch.cholesky_solve(along[..., None], torch.linalg.cholesky(gram)).squeeze(2)
    inside = (along * coefficients).sum(1)
    return SupportSplit(coefficients, inside, drift.change - torch.einsum("bkd,bk->bd", atoms, coefficients))


def off_support_change(drift: Drift) -> Tensor:
    """D^T (I - P) D: squared change that re-weighting the active atoms does not make."""
    return (drift.change * split(drift).outside).sum(1).mean()


def on_support_change(drift: Drift) -> Tensor:
    """D^T P D: squared change along the active atoms."""
    return split(drift).inside.mean()


def off_support_latents(drift: Drift) -> Tensor:
    """Squared change along each inactive atom, of what the active atoms do not make, summed over latents."""
    return _inactive(drift).square().sum(1).mean()


def added_latents(drift: Drift) -> Tensor:
    """The same, of increases alone: what is on its way to become active."""
    return _inactive(drift).relu().square().sum(1).mean()


def removed_latents(drift: Drift) -> Tensor:
    """Squared decrease of the coefficients of active atoms, summed over latents."""
    sign = drift.frozen_codes.values.sign()
    return (-split(drift).coefficients * sign).relu().square().sum(1).mean()


def selected_change(
    drift: Drift,
    forbid: Sequence[int],
    keep: Sequence[int],
    others: float,
    weights: Sequence[tuple[int, float]] = (),
) -> Tensor:
    """Squared increase along forbidden atoms, decrease along kept ones, and `others` times the change of the rest.

    Selected latents count as `weights` says, 1 where it does not.
    """
    atoms = normalize(drift.atoms, dim=1)
    if unknown := [latent for latent in (*forbid, *keep) if latent >= len(atoms)]:
        raise ValueError(f"the autoencoder has {len(atoms)} latents, but latent {unknown[0]} is forbidden or kept")
    up, down = (atoms.new_full((len(atoms),), others) for _ in range(2))
    weight_of = dict(weights)
    for towards, away, latents in ((up, down, forbid), (down, up, keep)):
        towards[list(latents)] = towards.new_tensor([weight_of.get(latent, 1.0) for latent in latents])
        away[list(latents)] = 0
    along = drift.change @ atoms.T
    return (up * along.relu().square() + down * (-along).relu().square()).sum(1).mean()


def followed_change(drift: Drift, forbid: Sequence[int]) -> Tensor:
    """Squared change of features per deviation of each forbidden latent's activity: what of a change follows it.

    The slope of the least squares line from the frozen activation of the latent to the change, squared and multiplied
    by the activation's variance; latents that are active in all images or in none of the batch say nothing.
    """
    codes = drift.frozen_codes
    dense = torch.zeros(len(codes.values), len(drift.atoms)).to(drift.change)
    activations = dense.scatter_add(1, codes.indices, codes.values * codes.active)[:, list(forbid)]
    centred = activations - activations.mean(0)
    covariances = centred.T @ (drift.change - drift.change.mean(0)) / len(centred)
    return (covariances.square().sum(1) / (centred.square().mean(0) + VARIANCE)).sum()


def _inactive(drift: Drift) -> Tensor:
    """Change (batch, num_latents) along unit atoms outside the support; 0 for active ones."""
    along = split(drift).outside @ normalize(drift.atoms, dim=1).T
    codes = drift.frozen_codes
    active = torch.zeros_like(along).scatter_add(1, codes.indices, codes.active.to(along)) > 0
    return along * ~active
