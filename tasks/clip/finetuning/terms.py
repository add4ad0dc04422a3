"""The terms that regularisers are sums of: each a number for a drift, the batch mean of a sum over one image.

Notation of `tasks.clip.finetuning.drift`; sections are those of the method page. Every term has a gradient with respect
to the current features alone. Where features have not moved it is 0 and so is its gradient, unless the docstring says
else.
"""

import torch
from ot.batch import solve_batch
from torch import Tensor

from amalgam.tasks.clip.finetuning.drift import Drift
from amalgam.tasks.clip.finetuning.support import (
    added_latents,
    followed_change,
    off_support_change,
    off_support_latents,
    on_support_change,
    removed_latents,
    selected_change,
)
from amalgam.tasks.sae.autoencoder import unit_norm

__all__ = [
    "added_latents",
    "followed_change",
    "off_support_change",
    "off_support_latents",
    "on_support_change",
    "removed_latents",
    "selected_change",
]

TINY = 1e-30  # keeps the logarithm of a mass finite; far below any mass in float32
RIDGE = 1e-12  # of masses, which sum to 1; in float64
MARGINAL_ERROR, NEWTON_STEPS = 1e-9, 60
SMOOTHING = 1e-8  # mass lent to every latent, so that divergences between disjoint supports are finite


def squared_change(drift: Drift) -> Tensor:
    """|z - z_0|^2."""
    return drift.change.square().sum(1).mean()


def absolute_change(drift: Drift) -> Tensor:
    """The sum of |z - z_0|."""
    return drift.change.abs().sum(1).mean()


def nuclear_norm(drift: Drift) -> Tensor:
    """The sum of the singular values of the batch matrix z - z_0: not a mean, it grows with the batch (section 3.3).

    At 0 it has no gradient; 0 is one of its subgradients, and is taken, so that the first step is that of no penalty.
    """
    if not drift.change.any():
        return (0 * drift.change).sum()
    return torch.linalg.matrix_norm(drift.change, "nuc")


def excess_nuclear_norm(drift: Drift, ceiling: float) -> Tensor:
    """The square of what the nuclear norm exceeds `ceiling` by."""
    return (nuclear_norm(drift) - ceiling).relu().square()


def level_change(drift: Drift) -> Tensor:
    """Squared change of unit tokens inside the encoder, the mean of tokens and levels (LDIFS, Mukhoti et al. 2024)."""
    changes = [(unit_norm(new) - unit_norm(old)).square().sum(-1).mean() for new, old in drift.levels]
    return torch.stack(changes).mean()


def subspace_change(drift: Drift) -> Tensor:
    """The sum of |U^T (z - z_0)| over the principal directions U."""
    assert drift.basis is not None
    return (drift.change @ drift.basis).abs().sum(1).mean()


def off_subspace_change(drift: Drift) -> Tensor:
    """Squared length of the part of z - z_0 outside the principal directions."""
    assert drift.basis is not None
    return (drift.change - drift.change @ drift.basis @ drift.basis.T).square().sum(1).mean()


def latent_change(drift: Drift) -> Tensor:
    """The sum of |s - s_0|."""
    return (drift.codes.dense() - drift.frozen_codes.dense()).abs().sum(1).mean()


def unexplained_change(drift: Drift) -> Tensor:
    """|e - e_0|^2: what the autoencoder cannot explain must not move (section 3.2)."""
    return drift.unexplained.square().sum(1).mean()


def new_latents(drift: Drift) -> Tensor:
    """The sum of |s| over latents that were inactive in the frozen model (section 3.2)."""
    is_new = ~drift.shared.any(2)
    return (drift.codes.values.abs() * is_new).sum(1).mean()


def lost_latents(drift: Drift) -> Tensor:
    """What active latents have lost: the sum of max(0, s_0 - s) over those active in the frozen model (section 3.3)."""
    now = (drift.codes.values[:, :, None] * drift.shared).sum(1)
    lost = (drift.frozen_codes.values - now).relu() * drift.frozen_codes.active
    return lost.sum(1).mean()


def support_excess(drift: Drift, margin: float) -> Tensor:
    """The sum of max(0, p - tau_0 + margin) over inactive latents; tau_0 is the least p_0 of an active one (13.4.1).

    With TopK that is the k-th largest pre-activation. A latent is pushed back before it becomes active, and nothing
    jumps when it does. Where features have not moved it is 0 only for a margin of 0.
    """
    now, before = drift.pre_activations()
    codes = drift.frozen_codes
    active = torch.zeros_like(before).scatter_add(1, codes.indices, codes.active.to(before)) > 0
    least = before.masked_fill(~active, torch.inf).amin(1, keepdim=True)
    # Without an active latent the largest pre-activation bounds the empty support.
    threshold = torch.where(least.isfinite(), least, before.amax(1, keepdim=True))
    return ((now - threshold + margin).relu() * ~active).sum(1).mean()


def divergence(drift: Drift) -> Tensor:
    """KL(p_0 | p) of the positive activations as shares of their sum, in nats, finite also for disjoint supports.

    Summed as `p_0 log(p_0 / p) - p_0 + p`, of which no summand is negative and each is exactly 0 where nothing moved.
    """
    before, now = _smoothed(drift.frozen_codes.dense()), _smoothed(drift.codes.dense())
    return (before * (before / now).log() - before + now).sum(1).mean()


def _smoothed(activations: Tensor) -> Tensor:
    shares = _shares(activations)
    return (shares + SMOOTHING) / (shares.sum(1, keepdim=True) + SMOOTHING * shares.shape[1])


def _shares(activations: Tensor) -> Tensor:
    positive = activations.relu()
    return positive / positive.sum(1, keepdim=True).clamp_min(TINY)


def transport_cost(drift: Drift, epsilon: float) -> Tensor:
    """What it costs to carry the activations of s_0 to s, an atom to another at 1 - their cosine, at least 0.

    Entropic optimal transport (Cuturi 2013) between active latents alone, at convergence, where the paper's public code
    stops after 50 iterations, 2 to 4 % away; the gradient is that of the converged plan (implicit function theorem).
    Entropy blurs the plan, so that equal codes cost a little if their atoms are close, and the gradient is not exactly
    0 there. Without any positive activation before or now, an image costs nothing.
    """
    before, now = _shares(drift.frozen_codes.values), _shares(drift.codes.values)
    present = (before.sum(1) > 0) & (now.sum(1) > 0)
    with torch.no_grad():
        atoms = torch.nn.functional.normalize(drift.atoms, dim=1)
        cosines = atoms[drift.frozen_codes.indices] @ atoms[drift.codes.indices].transpose(1, 2)
        cost = (1 - cosines).relu().double()
        plan = _converged_plan(cost, epsilon, before.clamp_min(TINY).double(), now.clamp_min(TINY).double())
        # A change db of the marginals changes the plan by P (x_i + x_j) with K x = db, so the cost by r' K^-1 db.
        slope = _solved(plan, torch.cat([(plan * cost).sum(2), (plan * cost).sum(1)], 1))[:, before.shape[1] :]
    carried = (plan * cost).sum((1, 2)).to(now) + ((now - now.detach()) * slope.to(now)).sum(1)
    return (carried * present).mean()


def _converged_plan(cost: Tensor, epsilon: float, before: Tensor, now: Tensor) -> Tensor:
    """The entropic plan between masses (batch, K_0) and (batch, K): Sinkhorn's iterations, then Newton's steps.

    Sinkhorn comes near quickly, but needs thousands of iterations from there where plans hardly mix.
    """
    plan: Tensor = solve_batch(cost, epsilon, before, now, 200, tol=1e-3, method="log_sinkhorn", grad="detach").plan
    for _ in range(NEWTON_STEPS):
        missing = torch.cat([before - plan.sum(2), now - plan.sum(1)], 1)
        if missing.abs().max() < MARGINAL_ERROR:
            break
        x = _solved(plan, missing).clamp(-1, 1)  # of the potentials, in units of epsilon
        plan = plan * (x[:, : plan.shape[1], None] + x[:, None, plan.shape[1] :]).exp()
    return plan


def _solved(plan: Tensor, right: Tensor) -> Tensor:
    """The x of K x = right, where x' K x is the sum of P_ij (x_i + x_j)^2, (batch, K_0 + K)."""
    rows, columns = plan.sum(2).diag_embed(), plan.sum(1).diag_embed()
    system = torch.cat([torch.cat([rows, plan], 2), torch.cat([plan.transpose(1, 2), columns], 2)], 1)
    system = system + RIDGE * torch.eye(system.shape[1]).to(system)  # x_i + t, x_j - t is the same for every t
    return torch.cholesky_solve(right[..., None], torch.linalg.cholesky(system)).squeeze(2)


def parameter_change(drift: Drift) -> Tensor:
    """Squared distance of the parameters from the frozen ones (L2-SP, Li et al. 2018); one number for all images."""
    return torch.stack([(new - old).square().sum() for new, old in drift.parameters]).sum()
