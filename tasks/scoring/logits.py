"""Logits, and what they are worth: accuracy, likelihood, calibration; ensembles of several members' logits."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from amalgam.tasks.data.images import Images
from amalgam.tasks.data.loading import Indices, batches
from amalgam.tasks.scoring.metrics import METRICS, Predictions, value

BATCH_SIZE = 512  # large enough to keep a GPU busy, small enough for the memory of a laptop
SCORES = ("accuracy", "nll", "calibration_error")


@torch.no_grad()
def predict(
    module: nn.Module,
    images: Images,
    indices: Indices,
    batch_size: int = BATCH_SIZE,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Logits (n, classes) in float32 on the CPU, of the images at `indices`, unaugmented and in eval mode.

    The module must be on `device`; whether it was in train mode is left as it was.
    """
    was_training = module.training
    module.eval()
    logits = [module(batch.images).float() for batch in batches(images, indices, batch_size, device=device)]
    module.train(was_training)
    return torch.cat(logits).cpu()


def score(logits: Tensor, labels: Tensor, num_classes: int) -> dict[str, float]:
    """The worth of logits or log-probabilities (n, classes): shares are in [0, 1], nll in nats.

    `accuracy_class_i` is the share of class i that is recognised; classes without an example have none.
    """
    if logits.shape != (len(labels), num_classes):
        raise ValueError(f"logits must be ({len(labels)}, {num_classes}): labels x classes, got {tuple(logits.shape)}")
    predictions = Predictions.of(logits, labels, torch.arange(len(labels)))
    hits = (predictions.classes == predictions.labels).double()
    return {
        **{name: value(METRICS[name], predictions) for name in SCORES},
        **{f"accuracy_class_{i}": hits[predictions.labels == i].mean().item() for i in labels.unique().tolist()},
    }


def logit_ensemble(logits: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """The weighted mean of the members' logits (n, classes); equal weights by default."""
    shares = _shares(logits, weights)
    return torch.einsum("knc,k->nc", torch.stack(list(logits)), shares.to(logits[0].dtype))


def probability_ensemble(logits: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """The logarithm of the weighted mean of the members' probabilities (n, classes); equal weights by default."""
    shares = _shares(logits, weights)
    log_probabilities = torch.stack(list(logits)).log_softmax(2)
    return torch.logsumexp(log_probabilities + shares.log().to(log_probabilities.dtype)[:, None, None], 0)


def _shares(logits: Sequence[Tensor], weights: Sequence[float] | None) -> Tensor:
    shares = torch.full((len(logits),), 1 / len(logits)) if weights is None else torch.tensor(weights)
    shares = shares.double()
    if len(shares) != len(logits) or (shares < 0).any() or not math.isclose(shares.sum(), 1, abs_tol=1e-6):
        raise ValueError(f"weights must be {len(logits)} shares, none negative, that sum to 1, got {weights}")
    return shares
