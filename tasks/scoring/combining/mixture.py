"""A fitted ensemble: weights and temperatures of members, averaged as probabilities or as logits.

Letters: k members, n examples, c classes; T temperatures, w weights that sum to 1.
    probabilities   p = sum_k w_k softmax(z_k / T_k)            a mixture
    logits          p = softmax(sum_k w_k z_k / T_k)            a product of experts
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import nll_loss

from amalgam.tasks.scoring.logits import logit_ensemble, probability_ensemble

MEAN_OF = Literal["probabilities", "logits"]
TOLERANCE = 1e-10  # by how much less than this, in nats, an EM step may still improve


@dataclass(frozen=True)
class Mixture:
    """The combination of `len(weights)` members, as a value that can be written and read as JSON."""

    weights: tuple[float, ...]
    mean_of: MEAN_OF = "probabilities"
    temperatures: tuple[float, ...] = ()
    """By member; none: 1 for all."""

    def __post_init__(self) -> None:
        total = sum(self.weights)
        if not self.weights or min(self.weights) < 0 or not math.isclose(total, 1, abs_tol=1e-6):
            raise ValueError(f"weights must be shares, none negative, that sum to 1, got {self.weights}")
        if self.temperatures and (len(self.temperatures) != len(self.weights) or min(self.temperatures) <= 0):
            raise ValueError(
                f"temperatures must be {len(self.weights)} positive numbers, one per member, got {self.temperatures}"
            )

    def __call__(self, logits: Tensor) -> Tensor:
        """Log-probabilities (n, c) of the ensemble, of members' logits (k, n, c)."""
        if logits.ndim != 3 or len(logits) != len(self.weights):
            raise ValueError(
                f"logits must be ({len(self.weights)}, examples, classes): members first, got {tuple(logits.shape)}"
            )
        scaled = list(logits.double() / torch.tensor(self.temperatures or (1.0,), dtype=torch.float64)[:, None, None])
        if self.mean_of == "logits":
            return logit_ensemble(scaled, self.weights).log_softmax(1)
        return probability_ensemble(scaled, self.weights)


def nll(log_probabilities: Tensor, labels: Tensor) -> float:
    """Mean negative log-likelihood in nats, of log-probabilities (n, c)."""
    return nll_loss(log_probabilities, labels).item()


def fitted_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature of one member's logits (n, c) that minimises the NLL of labels (Guo et al. 2017).

    The NLL is convex in 1 / T; the search stays in [e^-5, e^5], which members that are always right would leave.
    """
    log_temperature = _minimise(
        lambda x: nll_loss((logits.double() / x.clamp(-5, 5).exp()).log_softmax(1), labels), torch.zeros(1)
    )
    return math.exp(log_temperature.clamp(-5, 5).item())


def fitted_shares(probabilities: Tensor, labels: Tensor, max_steps: int = 10_000) -> Tensor:
    """Weights (k,) of a mixture of probabilities (k, n, c) of greatest likelihood, by expectation maximisation.

    The log-likelihood is concave in the weights and no step lowers it, so the start, equal weights, decides nothing
    but which of several equally good mixtures is found.
    """
    likelihoods = probabilities.double()[:, torch.arange(len(labels)), labels].clamp_min(
        torch.finfo(torch.float64).tiny
    )
    weights = torch.full((len(likelihoods),), 1 / len(likelihoods), dtype=torch.float64)
    previous = -math.inf
    for _ in range(max_steps):
        joint = weights[:, None] * likelihoods
        total = joint.sum(0)
        reached = total.log().mean().item()
        if reached - previous < TOLERANCE:
            break
        previous = reached
        weights = (joint / total).mean(1)
    return weights


def fitted_logit_shares(logits: Tensor, labels: Tensor) -> Tensor:
    """Weights (k,) of the weighted mean of logits (k, n, c) of greatest likelihood, by L-BFGS over a softmax."""

    def loss(parameters: Tensor) -> Tensor:
        return nll_loss(torch.einsum("k,knc->nc", parameters.softmax(0), logits.double()).log_softmax(1), labels)

    return _minimise(loss, torch.zeros(len(logits))).softmax(0)


def shares(weights: Tensor) -> tuple[float, ...]:
    """Plain numbers that sum to 1."""
    return tuple((weights / weights.sum()).tolist())


def family_members(families: Sequence[str]) -> dict[str, list[int]]:
    """The places of the members of each family, families in order of appearance."""
    places: dict[str, list[int]] = {}
    for place, family in enumerate(families):
        places.setdefault(family, []).append(place)
    return places


def _minimise(loss: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    parameters = start.double().requires_grad_()
    optimiser = torch.optim.LBFGS([parameters], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(parameters)
        value.backward()
        return value

    optimiser.step(closure)
    return parameters.detach()
