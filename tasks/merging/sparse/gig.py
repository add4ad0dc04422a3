"""The generalised inverse Gaussian, with density proportional to `x^(p-1) exp(-(a x + b / x) / 2)`, elementwise.

In BayesTune the scale of an entry that moved by |d| has this posterior, with p = shape - 1, a = 2 rate, b = 2 |d|.
"""

import numpy as np
import torch
from torch import Tensor

LEAST = 1e-20  # b below this is taken as this: at b = 0 with p < 0 there is no distribution


def gig_mode(p: float, a: float, b: Tensor) -> Tensor:
    """Where the density is highest; 0 where b is 0 and p <= 1."""
    centre = p - 1
    root = (centre**2 + a * b).sqrt()
    # Of the two forms of the positive root of a x^2 - 2 (p - 1) x - b = 0, the one without cancellation.
    return (centre + root) / a if centre > 0 else b / (root - centre)


def gig_mean(p: float, a: float, b: Tensor) -> Tensor:
    """The expectation, by a ratio of Bessel functions."""
    from scipy.special import kve  # the ratio needs no scaling back

    scale = b.double().clamp_min(LEAST).numpy()
    omega = np.sqrt(a * scale)
    return torch.from_numpy(np.sqrt(scale / a) * kve(p + 1, omega) / kve(p, omega)).to(b)


def gig_sample(p: float, a: float, b: Tensor, generator: torch.Generator) -> Tensor:
    """One exact draw per entry, by rejection whose rate is bounded for all settings (Devroye 2014, section 3)."""
    scale = b.double().clamp_min(LEAST).flatten()
    order, omega = abs(p), (a * scale).sqrt()
    drawn = _log_concave(order, omega, generator).exp() * (order / omega + (1 + (order / omega) ** 2).sqrt())
    drawn = drawn if p >= 0 else 1 / drawn  # of b / a here, for 1 / x has the distribution of -p
    return (drawn * (scale / a).sqrt()).view(b.shape).to(b)


def _log_concave(order: float, omega: Tensor, generator: torch.Generator) -> Tensor:
    """Draws from exp(psi), by rejection from a flat top between exponential tails that touch it at t and -s."""
    alpha = (omega**2 + order**2).sqrt() - order

    def psi(x: Tensor, at: Tensor = alpha) -> Tensor:
        return -at * (x.cosh() - 1) - order * (x.exp() - x - 1)

    def slope(x: Tensor) -> Tensor:
        return -alpha * x.sinh() - order * (x.exp() - 1)

    one = torch.ones_like(alpha)
    t = _touch(-psi(one), (2 / (alpha + order)).sqrt(), (4 / (alpha + 2 * order)).log())
    narrow = torch.minimum(one / max(order, LEAST), (1 + 1 / alpha + (1 / alpha**2 + 2 / alpha).sqrt()).log())
    s = _touch(-psi(-one), (4 / (alpha * np.cosh(1) + order)).sqrt(), narrow)
    eta, zeta, theta, xi = -psi(t), -slope(t), -psi(-s), slope(-s)
    left, right = 1 / xi, 1 / zeta
    top_right, top_left = t - right * eta, s - left * theta
    width = top_left + top_right
    found, open_ = torch.zeros_like(alpha), torch.arange(len(alpha))
    while len(open_):
        u, v, w = torch.rand(3, len(open_), generator=generator, dtype=alpha.dtype).clamp_min(LEAST)
        p, q, r, tr, tl = (each[open_] for each in (left, width, right, top_right, top_left))
        # u chooses flat top, right or left tail by their areas, v a place within it; w accepts below the density.
        u = u * (p + q + r)
        x = torch.where(u < q, q * v - tl, torch.where(u < q + r, tr - r * v.log(), p * v.log() - tl))
        above = torch.exp(-eta[open_] - zeta[open_] * (x - t[open_]))
        below = torch.exp(-theta[open_] + xi[open_] * (x + s[open_]))
        bound = torch.where(x > tr, above, torch.where(x < -tl, below, torch.ones_like(x)))
        accepted = w * bound <= psi(x, alpha[open_]).exp()
        found[open_[accepted]] = x[accepted]
        open_ = open_[~accepted]
    return found


def _touch(drop: Tensor, far: Tensor, near: Tensor) -> Tensor:
    """Where a tail touches: at 1 if the density falls by a moderate factor until there, else where it does."""
    return torch.where(drop > 2, far, torch.where(drop < 0.5, near, torch.ones_like(drop)))
