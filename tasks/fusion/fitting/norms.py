"""Batch-norm statistics of a fused network, measured anew.

Averaging two units shrinks the variance of what they compute; resetting the running statistics on real inputs repairs
it (REPAIR, Jordan et al. 2023).
"""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from amalgam.tasks.tracing.capture import inputs_of

BatchNorm = nn.modules.batchnorm._BatchNorm


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """The batch norms that keep running statistics."""
    return [m for m in module.modules() if isinstance(m, BatchNorm) and m.track_running_stats]


@torch.no_grad()
def recalibrate(module: nn.Module, batches: Iterable[Any]) -> nn.Module:
    """A copy whose batch norms hold the plain average of their statistics over `batches` of unaugmented inputs.

    Cumulative averages, not exponential ones: no trace of the reset value remains. A network without batch norm is
    returned as it is. Raises ValueError if there are no batches.
    """
    fresh = copy.deepcopy(module).eval()
    norms = batch_norms(fresh)
    if not norms:
        return fresh
    for norm in norms:
        norm.reset_running_stats()  # type: ignore[operator]
        norm.train()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # type: ignore[assignment]  # None makes torch average cumulatively
    num_batches = 0
    for batch in batches:
        fresh(inputs_of(batch))
        num_batches += 1
    if not num_batches:
        raise ValueError("recalibration needs at least one calibration batch, got none")
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return fresh.eval()
