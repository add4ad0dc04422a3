"""Give the layers of a fused network without batch norm the statistics that its members had (REPAIR).

The mean of two units that agree only in part varies less than either, layer after layer. As Jordan et al. (2023) do
for averaged networks, each layer is rescaled, in the order of computation, until the mean and the standard deviation
of every unit before the activation are the merged ones of its members. Where fusion is exact, so is the repair: it
finds nothing to change.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from amalgam.tasks.fusion.unit_map import UnitMaps
from amalgam.tasks.tracing.axes import Axes
from amalgam.tasks.tracing.capture import UnitSummary, inputs_of
from amalgam.tasks.tracing.running import copied, evaluating, hooked

EPS = 1e-12  # below this deviation a unit is constant, and there is nothing to rescale


@torch.no_grad()
def repair(
    fused: nn.Module, members: Sequence[nn.Module], axes: Axes, maps: UnitMaps, batches: Iterable[Any]
) -> nn.Module:
    """A copy of `fused` whose hidden layers have the merged statistics of `members` on `batches`.

    A layer with a bias gets mean and standard deviation, one without only its root mean square. `batches` is read once
    per layer and must be repeatable. For networks without batch norm; `recalibrate` serves the others.
    """
    layers = _layers(axes)
    repaired = copied(fused).eval()
    targets = [_statistics(member, list(layers), batches) for member in members]
    for path, group in layers.items():
        found = _statistics(repaired, [path], batches)
        if any(path not in target for target in (*targets, found)):
            continue  # a layer whose parameters are used without calling it
        wanted = sum(m.merge @ target[path] for m, target in zip(maps[group], targets, strict=True))
        assert isinstance(wanted, Tensor)
        _rescale(repaired.get_submodule(path), found[path], wanted)
    return repaired


def _layers(axes: Axes) -> dict[str, str]:
    """Path of every hidden layer -> the group it writes, in the order of computation."""
    written = {}
    for group in axes.groups:
        for name, index in axes.parameters_of(group):
            axis = axes.of[name][index]
            is_layer = name.endswith(".weight") and name not in axes.parts and index == 0
            if is_layer and axis and not axis.reads and axis.repeat == 1 and len(axes.of[name]) > 1:
                written[name.removesuffix(".weight")] = group
    return written


def _statistics(module: nn.Module, paths: Sequence[str], batches: Iterable[Any]) -> dict[str, Tensor]:
    """Path -> (units, 2): mean and standard deviation before the activation; 0 and root mean square without a bias."""
    layers = {path: layer for path, layer in module.named_modules() if path in set(paths)}
    summaries: dict[str, UnitSummary] = {}

    def hook(path: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def take(layer: nn.Module, _: Any, output: Tensor) -> None:
            rows = output.movedim(-1 if isinstance(layer, nn.Linear) else 1, -1).flatten(0, -2)
            summaries.setdefault(path, UnitSummary(rows.shape[1])).update(rows)

        return take

    handles = [layer.register_forward_hook(hook(path)) for path, layer in layers.items()]
    num_batches = 0
    with hooked(handles), evaluating(module):
        for batch in batches:
            num_batches += 1
            module(inputs_of(batch))
    if not num_batches:
        raise ValueError("repair needs at least one calibration batch, got none")
    return {path: _columns(summary, layers[path].bias is not None) for path, summary in summaries.items()}


def _columns(summary: UnitSummary, has_bias: bool) -> Tensor:
    if has_bias:
        return torch.stack([summary.mean, summary.variance.sqrt()], 1)
    return torch.stack([torch.zeros_like(summary.mean), summary.norm], 1)


def _rescale(layer: nn.Module, found: Tensor, wanted: Tensor) -> None:
    # s (W h + b - mean) + mean_wanted has the wanted mean and deviation: weight s W, bias s (b - mean) + mean_wanted.
    (mean, deviation), (wanted_mean, wanted_deviation) = found.unbind(1), wanted.unbind(1)
    scale = torch.where(deviation > EPS, wanted_deviation / deviation.clamp_min(EPS), 1.0)
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    weight.mul_(scale.to(weight).reshape(-1, *[1] * (weight.ndim - 1)))
    if bias is not None:
        assert isinstance(bias, Tensor)
        bias.copy_(scale.to(bias) * (bias - mean.to(bias)) + wanted_mean.to(bias))
