"""Losses of few-shot training. All of them carry gradients to every network that they are about.

Letters: b batch, k classes; p probabilities.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from amalgam.tasks.imaging.few_shot.networks import Critic


def mutual_divergence(logits: list[Tensor]) -> Tensor:
    """The sum over networks of KL(p_m || mean of the others), mean over the batch (b, k)."""
    probabilities = torch.stack([each.softmax(1) for each in logits])
    others = (probabilities.sum(0) - probabilities) / (len(logits) - 1)
    return (probabilities * (probabilities.log() - others.log())).sum((0, 2)).mean()


def entropy(logits: Tensor) -> Tensor:
    """Mean entropy of predictions, in nats."""
    log_probabilities = logits.log_softmax(1)
    return -(log_probabilities.exp() * log_probabilities).sum(1).mean()


def prototype_loss(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Mean squared distance of softened predictions from the mean prediction of their class in the batch."""
    softened = (logits / temperature).softmax(1)
    members = functional.one_hot(labels, logits.shape[1]).to(softened.dtype)
    means = members.T @ softened / members.sum(0).clamp_min(1)[:, None]
    return (softened - means[labels]).square().sum(1).mean()


def mixup_loss(network: nn.Module, images: Tensor, labels: Tensor, share: float, order: Tensor) -> Tensor:
    """Cross-entropy of images mixed with others of the batch by `share` (Zhang et al. 2018)."""
    logits = network(share * images + (1 - share) * images[order])
    one, other = functional.cross_entropy(logits, labels), functional.cross_entropy(logits, labels[order])
    return share * one + (1 - share) * other


def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor, shares: Tensor) -> Tensor:
    """Mean squared excess over 1 of the norm of the critic's gradient between real and fake (Gulrajani et al. 2017)."""
    between = (shares[:, None, None, None] * real + (1 - shares)[:, None, None, None] * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).realness.sum(), between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()
