"""Batch-norm statistics of a fused network, measured again.

Averaging two units shrinks the variance of what they compute; resetting the running statistics on real inputs repairs
it (REPAIR, Jordan et al. 2023).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from amalgam.tasks.tracing.capture import inputs_of
from amalgam.tasks.tracing.running import copied, hooked

BatchNorm = nn.modules.batchnorm._BatchNorm


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """The batch norms that keep running statistics."""
    return [m for m in module.modules() if isinstance(m, BatchNorm) and m.track_running_stats]


@torch.no_grad()
def recalibrate(module: nn.Module, batches: Iterable[Any], isolated: Mapping[str, Tensor] | None = None) -> nn.Module:
    """A copy whose batch norms have the statistics of `batches` of unaugmented inputs, every row counted alike.

    Nothing of the old value remains, except for units that are True in `isolated` (path of the norm -> (units,)): what
    only one member has keeps that member's statistics. A network without batch norm is returned as it is. Batches
    that give a norm a single row have no variance; they count for means alone. Raises ValueError if there are none.
    """
    fresh = copied(module).eval()
    kept = set(batch_norms(fresh))
    norms = {path: norm for path, norm in fresh.named_modules() if norm in kept}
    merged = {path: (norm.running_mean.clone(), norm.running_var.clone()) for path, norm in norms.items()}
    if not norms:
        return fresh
    sums: dict[str, list[Tensor]] = {path: [] for path in norms}
    handles = [norm.register_forward_pre_hook(_add_rows(sums[path])) for path, norm in norms.items()]
    num_batches = 0
    with hooked(handles):
        for batch in batches:
            fresh(inputs_of(batch))
            num_batches += 1
    if not num_batches:
        raise ValueError("recalibration needs at least one calibration batch, got none")
    for path, norm in norms.items():
        _write(norm, sums[path], merged[path], (isolated or {}).get(path))
    return fresh


def _add_rows(sums: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """A hook that adds up rows, means and variances of what a norm reads, and lets the batch normalise itself."""

    def take(norm: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, BatchNorm)
        rows = arguments[0].movedim(1, -1).flatten(0, -2).double()
        mean, count = rows.mean(0), float(len(rows))
        variance = rows.var(0) if len(rows) > 1 else torch.zeros_like(mean)
        found = torch.stack(
            [
                mean * count,
                variance * count * (count > 1),
                *torch.tensor([[count], [count * (count > 1)]]).to(mean).expand(2, len(mean)),
            ]
        )
        if sums:
            sums[0] += found
        else:
            sums.append(found)
        if count > 1:  # what follows reads this batch by its own statistics, as in training
            norm.running_mean.copy_(mean)  # type: ignore[union-attr]
            norm.running_var.copy_(rows.var(0, correction=0))  # type: ignore[union-attr]

    return take


def _write(norm: nn.Module, sums: list[Tensor], merged: tuple[Tensor, Tensor], isolated: Tensor | None) -> None:
    if not sums:  # the norm was not reached
        return
    means, variances, num_rows, num_spread = sums[0]
    found = means / num_rows, torch.where(num_spread > 0, variances / num_spread.clamp_min(1), merged[1].to(variances))
    for name, new, old in zip(("running_mean", "running_var"), found, merged, strict=True):
        keep = torch.zeros_like(old, dtype=torch.bool) if isolated is None else isolated.to(old.device)
        getattr(norm, name).copy_(torch.where(keep, old, new.to(old)))
